"""Schedules of the samplers measured on many objects at once, stage by stage, without decoding meshes."""
