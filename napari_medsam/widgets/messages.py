"""What the user is told when something cannot be done, or went wrong."""

from __future__ import annotations

from napari.utils.notifications import show_error, show_warning

NO_IMAGE = "Open an image first: drop a file or a DICOM folder here, or choose File > Open Sample > MedSAM."
NOT_IN_3D = "Prompts need a slice on screen: leave the 3D view (Ctrl+Y)."
OUTSIDE = "The slice on screen lies outside of '{}': scroll back to it, or click another image in the list."
UNTRAINED = "The model {} was trained without {}s: choose another one under Model."


def tell(error: Exception | None) -> None:
    """Show what went wrong: one sentence for what a user can mend, and what to do about all else."""
    if isinstance(error, ValueError | OSError):
        show_warning(str(error))
    elif isinstance(error, MemoryError):
        show_error("There is not enough memory: close other volumes, or choose a smaller model.")
    elif error is not None:
        show_error(
            f"This is a bug in napari-medsam ({type(error).__name__}: {error}). Your labels are as they "
            "were; save them, and please report it."
        )
