"""What outlives the dock: whoever closes the panel and opens it again goes on with the same work.

It belongs to the window, asks about unsaved work before that closes, and knows where to save.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox, QWidget

from napari_medsam.export import is_nnunet
from napari_medsam.recovery import recovery_folder
from napari_medsam.widgets.label_files import voxels_path
from napari_medsam.widgets.parts import may_replace
from napari_medsam.widgets.pause import Pause
from napari_medsam.widgets.saving import (
    KINDS,
    NIFTI,
    SUFFIX,
    default_path,
    kinds_for,
    path_of_kind,
    prompts_path,
)
from napari_medsam.widgets.segmenter import Segmenter
from napari_medsam.widgets.worker import Worker

if TYPE_CHECKING:
    import napari

    from napari_medsam.widgets.layers import SessionLayers

CHANGED = "was changed by another program since it was saved here"


class Keeper(QObject):
    """The segmenter of one window and its thread.

    Parameters
    ----------
    viewer
        The viewer in the window.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.worker = Worker(self)
        self.segmenter = Segmenter(viewer, self.worker, folder=recovery_folder())
        self.segmenter.saved.connect(self._tell_saved)
        self.segmenter.save_requested.connect(self.save)
        self.segmenter.progressed.connect(self._close_once_saved)
        self._pause = Pause(self)
        self.segmenter.prompting.asked.connect(self._rest)
        self.segmenter.prompting.found.connect(self._pause.end)
        self.segmenter.prompting.ended.connect(self._pause.end)
        self._saved_to: dict[Path, SessionLayers] = {}
        self._stamps: dict[Path, tuple[int, int]] = {}
        self._is_closing = False
        # Loading torch beside them would hold up dock and layers, which are being made just now.
        QTimer.singleShot(0, self.segmenter.loading.warm_up)

    @classmethod
    def of(cls, viewer: napari.Viewer) -> Keeper:
        """Return the keeper of a viewer's window, made if there is none yet."""
        # What napari hands to a plugin stands in for the viewer, anew each time.
        viewer = getattr(viewer, "__wrapped__", viewer)
        for window in QApplication.topLevelWidgets():
            for keeper in window.findChildren(cls):
                if keeper.viewer is viewer:
                    return keeper
        return cls(viewer)

    def belong_to(self, window: QWidget) -> None:
        """Live as long as a window, and be told before it closes."""
        if self.parent() is not window:
            self.setParent(window)
            window.installEventFilter(self)

    def _rest(self) -> None:
        window = self.parent()
        if isinstance(window, QWidget):
            self._pause.begin(window)

    def save(self, layers: SessionLayers | None = None, *, elsewhere: bool = False) -> bool:
        """Save an image's labels; asks for a place where none follows from the image, or a file is there.

        Parameters
        ----------
        layers
            Of which image; of the current one when None.
        elsewhere
            Ask in any case.

        Returns
        -------
        bool
            False when there is no image, or the user does not want to.
        """
        layers = layers or self.segmenter.layers
        if layers is None:
            return False
        own = [path for path, saved in self._saved_to.items() if saved is layers]
        target = own[-1] if own else default_path(layers.session)
        if target is None or elsewhere or (not own and self._is_taken(target)):
            target = self._ask(layers, target)
            if target is None:
                return False
        elif self._was_changed(target) and not may_replace(self._window(), "Save", [target], CHANGED):
            return False
        if not is_nnunet(target):
            # The place that was chosen last is where Save goes from now on; a training set is no such place.
            self._saved_to.pop(target, None)
            self._saved_to[target] = layers
        return self.segmenter.save(target, layers)

    def _ask(self, layers: SessionLayers, target: Path | None) -> Path | None:
        """Ask where to save, and as what; None when the user does not want to."""
        suggestion = target or Path(f"{layers.image.name}{SUFFIX}")
        kinds = kinds_for(layers.session)
        fitting = (kind for ending, kind in kinds.items() if suggestion.name.lower().endswith(ending))
        usual = next(fitting, KINDS[NIFTI])
        title = f"Save the labels of {layers.image.name}"
        chosen, kind = QFileDialog.getSaveFileName(
            self._window(), title, str(suggestion), ";;".join(kinds.values()), usual
        )
        if not chosen:
            return None
        asked = Path(chosen)
        ending = next((each for each, name in kinds.items() if name == kind), NIFTI)
        path = path_of_kind(asked, ending, is_chosen=kind not in (usual, ""))
        own = [each for each, saved in self._saved_to.items() if saved is layers]
        unasked = [each for each in (path, voxels_path(path)) if each != asked and path not in own]
        if not path.exists() and prompts_path(path) not in map(prompts_path, own):
            # Those of a file that is to be replaced go with it.
            unasked.append(prompts_path(path))
        return path if may_replace(self._window(), title, unasked) else None

    def _was_changed(self, path: Path) -> bool:
        """Whether another program has written to a file since it was saved here."""
        return path.exists() and self._stamps.get(path, _stamp(path)) != _stamp(path)

    def _is_taken(self, path: Path) -> bool:
        """Whether another image's labels are there, or are being written there just now."""
        return path in self._saved_to or path.exists() or prompts_path(path).exists()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Before the window closes, ask about work that is in no file."""
        if event.type() != QEvent.Type.Close:
            return False
        self._is_closing = False
        if not self.segmenter.unsaved:
            self._stop()
            return False
        buttons = QMessageBox.StandardButton
        names = ", ".join(each.image.name for each in self.segmenter.unsaved)
        answer = QMessageBox.question(
            self._window(),
            "Unsaved segmentation",
            f"There are labels that are in no file yet: {names}. Save them before closing?",
            buttons.Save | buttons.Discard | buttons.Cancel,
            buttons.Save,
        )
        if answer == buttons.Discard:
            self._stop()
            return False
        if answer == buttons.Save:
            # Saving goes on beside the window, which closes once it is done.
            begun = [self.save(each) for each in self.segmenter.unsaved]
            self._is_closing = all(begun)
        event.ignore()
        return True

    def _stop(self) -> None:
        self.segmenter.close()
        self.worker.stop()

    def _window(self) -> QWidget | None:
        parent = self.parent()
        return parent if isinstance(parent, QWidget) else None

    def _tell_saved(self, path: Path) -> None:
        if path.exists():
            self._stamps[path] = _stamp(path)
        show_info(f"Saved {path}")

    def _close_once_saved(self, what: str, *progress: Any) -> None:
        window = self._window()
        if not self._is_closing or what or self.worker.is_busy or window is None:
            return
        self._is_closing = False
        if not self.segmenter.unsaved:
            window.close()


def _stamp(path: Path) -> tuple[int, int]:
    """Tell one state of a file from another."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size
