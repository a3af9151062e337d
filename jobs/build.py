"""The script of a Ray job: `cyclepref build`, run with the code of a checkout.

ray job submit --working-dir . -- python -m jobs.build jobs/recipes/shapeworld_i2t2i.yaml --out /shared/run
"""

import sys

if __name__ == "__main__":
    if __package__ == "jobs":
        from jobs.checkout import use_checkout

        use_checkout()
    from cyclepref.jobs.cli import main

    sys.exit(main(["build", *sys.argv[1:]]))
