"""What the user sees in napari: the manifest's readers, writers and sample data."""
