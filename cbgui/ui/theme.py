"""One accent colour, light and dark."""

import gradio as gr

THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)

CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto !important;}
#run-line {min-height: 2.6em;}
#log textarea {font-family: monospace; font-size: 12px;}
"""
