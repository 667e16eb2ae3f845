"""The pages. The only place that imports gradio."""
