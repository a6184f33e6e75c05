"""All masked objects of a picture: made one after another, placed in one scene, written to disk."""

from fast_sam3d.scene.objects import PlacedObject, Scene, SceneObject, Surface, compose_scene, run_scene

__all__ = ["PlacedObject", "Scene", "SceneObject", "Surface", "compose_scene", "run_scene"]
