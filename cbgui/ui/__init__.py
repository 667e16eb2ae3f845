"""The app in the browser; the only part of cbgui that imports Gradio."""
