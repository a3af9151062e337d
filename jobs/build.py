"""The script of a Ray job: `cyclepref build`, run from a checkout.

ray job submit --working-dir . -- python -m jobs.build jobs/recipes/shapeworld_i2t2i.yaml --out /shared/run
"""
