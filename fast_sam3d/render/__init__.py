"""A small CPU renderer and the pictures made with it."""
