"""Extraction by several processes of this machine (`local`) or by a Ray cluster (`ray_crew`), parts from one queue."""
