"""Scenes: every masked object of a picture is reconstructed and placed in one scene."""

from fast_sam3d.scene.objects import PlacedObject, Scene, SceneObject, Surface, compose_scene, run_scene

__all__ = ["PlacedObject", "Scene", "SceneObject", "Surface", "compose_scene", "run_scene"]
