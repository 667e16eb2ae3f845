"""How the app looks: one accent colour, in a light and a dark theme."""

import gradio as gr

SUBDUED = {
    "body_text_color_subdued": "#526074",
    "block_info_text_color": "#526074",
    "input_placeholder_color": "#66748a",
}
SUBDUED_DARK = {f"{name}_dark": "#a9b6c8" for name in SUBDUED}
# Gradio's own greys and teal have less than the contrast of 4.5 that WCAG requires.
THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    button_primary_background_fill="#0f766e",
    button_primary_background_fill_dark="#0f766e",
    button_primary_background_fill_hover="#115e59",
    button_primary_background_fill_hover_dark="#115e59",
    checkbox_border_color="#64748b",
    checkbox_border_color_dark="#94a3b8",
    link_text_color="#0f766e",
    link_text_color_dark="#5eead4",
    **SUBDUED,
    **SUBDUED_DARK,
)

# Gradio's dark theme is a class of the page.
SWITCH_THEME = """() => { document.body.classList.toggle("dark"); }"""

CSS = """
html {scrollbar-gutter: stable;}
html:has(body.dark) {color-scheme: dark;}
html:has(body.dark), body.dark {background: #0a0f1e;}
button[role=tab][aria-selected=true] {color: #0f766e !important;}
.dark button[role=tab][aria-selected=true] {color: #5eead4 !important;}
#steps .stepper:not(.compact) .step-number {background: #0f766e; color: #fff;}
#steps .stepper:not(.compact) .pending .step-number {background: var(--border-color-primary);
  color: var(--body-text-color);}
#steps .step-button .step-label {color: var(--body-text-color);}
#steps .step-button:disabled {opacity: .8;}
.wrap:has(> .error) {display: none !important;}
button.label-wrap span {text-align: left;}
.counts small, .memory small {font-size: 12px;}
.gradio-container {max-width: min(1280px, 100vw) !important; margin: 0 auto !important; min-width: 0 !important;
  width: 100% !important;}
.gradio-container main {width: 100%; max-width: 100% !important; min-width: 0 !important; box-sizing: border-box;}
.sides label {flex: 1 1 200px; padding: 14px !important; font-weight: 600;}
.aligned {align-items: flex-end; flex-wrap: wrap;}
.sans {font-family: var(--font);}
.sans span {font-family: var(--font) !important;}
.or, .max_value, .min_value, input.subdued {color: var(--body-text-color-subdued) !important;}
.dark a.download-link {color: #7dd3fc !important;}
#chat-original .md, #chat-short-circuited .md {white-space: pre-wrap;}
#chat-original .placeholder-content, #chat-short-circuited .placeholder-content {padding: 0 14px;}
.card {border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 18px !important;
  background: var(--block-background-fill); justify-content: space-between;}
.prose code {white-space: normal !important; overflow-wrap: anywhere;}
#run-line {min-height: 5.2em;}
.settings .form {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(260px, 100%), 1fr));
  align-items: end; background: none;}
#log textarea {font-family: monospace; font-size: 12px;}
#header-words {gap: 4px;}
#title {align-items: center; gap: 16px; justify-content: flex-start;}
#title > :first-child {flex: 0 0 auto; width: auto;}
#run input {padding-right: 34px; text-overflow: ellipsis;}
#device, #device * {color: var(--body-text-color-subdued); font-size: 13px;}
.counts {display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px;}
.counts div {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 8px 14px;
  background: var(--block-background-fill); display: flex; flex-direction: column;}
.counts b {font-size: 22px; color: var(--body-text-color);}
.counts span {font-weight: 600; color: var(--body-text-color);}
.counts i {color: #0f766e; font-style: normal;}
.dark .counts i {color: #5eead4;}
.to-do {align-items: center;}
.missing {margin: 10px 0 0; padding: 0; list-style: none; color: var(--body-text-color);}
.missing li::before {content: "! "; font-weight: 700; color: #b45309;}
.dark .missing li::before {color: #fbbf24;}
.counts small {color: var(--body-text-color-subdued);}
.memory {font-size: 13px; color: var(--body-text-color);}
.memory .bar {display: flex; height: 18px; border-radius: 5px; overflow: hidden; margin: 6px 0;
  background: var(--border-color-primary);}
.memory .bar i {display: block; height: 100%;}
.memory .legend {display: flex; flex-wrap: wrap; gap: 2px 12px;}
.memory .legend i {display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 4px;}
#favour .tab-like-container, #favour .min_value, #favour .max_value {display: none;}
.meters {display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 4px 24px;}
.meter span, .meter small {color: var(--body-text-color); font-size: 13px;}
.meter small {color: var(--body-text-color-subdued);}
.meter svg {display: block; width: 100%; height: 12px; border-radius: 4px;}
.meter .track {fill: var(--border-color-primary);}
.meter .good {fill: #0f766e;}
.meter .far {fill: #c2410c;}
.meter .mark {fill: var(--body-text-color);}
.problem {color: #b42318; font-size: 13px; font-weight: 600;}
.dark .problem {color: #fda29b;}
.downloads table {border: 0; border-collapse: collapse; margin: 4px 0 16px !important;}
.downloads tr {border: 0;}
.downloads td {border: 0; border-bottom: 1px solid var(--border-color-primary); padding: 4px 16px 4px 0;}
.downloads td:first-child {overflow-wrap: anywhere;}
.standing {border-left: 4px solid #b45309; padding: 8px 14px; margin: 0; color: var(--body-text-color);
  background: var(--block-background-fill);}
.standing.good {border-color: #0f766e;}
.standing.bad {border-color: #b42318;}
.shaded {line-height: 1.9; overflow-wrap: anywhere; color: var(--body-text-color);}
.shaded p {margin: 10px 0 2px;}
.shaded span {border-radius: 3px; white-space: pre-wrap;}
.shaded .legend i {display: inline-block; width: 10px; height: 10px; border-radius: 2px;}
.shaded .legend {font-size: 12px; display: flex; gap: 14px; flex-wrap: wrap; margin-bottom: 6px;}
#report-files {min-width: 200px;}
#forms > * {align-self: stretch;}
#report iframe {width: 100%; height: 900px; border: 1px solid var(--border-color-primary); border-radius: 8px;
  color-scheme: light;}
.dark #report iframe {color-scheme: dark;}
.sample {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 8px 12px; margin-bottom: 8px;
  color: var(--body-text-color); font-size: 13px;}
.sample .two {display: grid; grid-template-columns: 1fr 1fr; gap: 12px;}
.sample b {font-size: 12px; color: var(--body-text-color-subdued);}
.sample p {margin: 2px 0; overflow-wrap: anywhere;}
@media (max-width: 640px) {
  #header {flex-wrap: wrap;}
  #header > * {flex: 1 1 100% !important;}
  #device {display: none;}
  #train-columns > :last-child {order: -1;}
  #page-words, #hold-all-out, #report-files {min-width: 100% !important;}
  #chat-buttons button {flex: 1 1 40%; min-width: 0 !important;}
  .sans {max-width: calc(100vw - 34px); overflow-x: auto;}
  .sample .two {grid-template-columns: 1fr;}
  .chart, .chart > * {padding-left: 0 !important; padding-right: 0 !important;}
  #chat-original, #chat-short-circuited {height: 240px !important; min-height: 0 !important;}
  .counts {gap: 6px;}
  .counts div {padding: 6px 8px;}
}
"""
