"""Four tutorials as Jupyter notebooks, with their outputs, and what runs them."""
