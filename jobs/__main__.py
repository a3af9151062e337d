"""`python -m cyclepref.jobs COMMAND` is `cyclepref COMMAND`; `python -m jobs COMMAND` runs a checkout's code.

ray job submit --working-dir . -- python -m jobs train-reward /shared/run --out /shared/reward --workers 8
"""

import sys

if __name__ == "__main__":
    if __package__ == "jobs":
        from jobs.checkout import use_checkout

        use_checkout()
    from cyclepref.jobs.cli import main

    sys.exit(main())
