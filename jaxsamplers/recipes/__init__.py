"""Recipes: samplers as files of plain numbers, and as diffusers' scheduler settings."""

from jaxsamplers.recipes.diffusers import from_diffusers, to_diffusers
from jaxsamplers.recipes.files import load, save
from jaxsamplers.recipes.recipe import Clip, Recipe, denoiser

__all__ = ["Clip", "Recipe", "denoiser", "from_diffusers", "load", "save", "to_diffusers"]
