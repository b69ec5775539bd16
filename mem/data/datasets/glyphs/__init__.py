"""Glyphs-LT: characters rendered from font files. Modules that read fonts, choose images and render them."""
