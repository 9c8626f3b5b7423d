"""The one page of an empty workspace: what will be here, and the ways to fill it."""

from __future__ import annotations

import streamlit as st

from ui.pages.panels import job_actions, job_progress, overview_training
from ui.shell import Shell, plain

STEPS = (
    ("Train", "Learns features from the activations of a language model’s layer."),
    ("Evaluate", "Measures how much of the model survives the reconstruction."),
    ("Harvest", "Finds where each feature fires in real text."),
    ("Browse", "Look at features, try sentences, take features away, write notes."),
)


def show(shell: Shell) -> None:
    """Teaches, shows what is under way, and offers to begin."""
    st.title("No sparse autoencoder here yet")
    st.write(
        "A language model thinks in thousands of numbers that mean little one by one. A sparse "
        "autoencoder (SAE) splits them into features, few of which are active at a time, and many "
        "of which can be understood. Train one, and its features appear here."
    )
    for column, (number, (name, what)) in zip(
        st.columns(4, gap="medium"), enumerate(STEPS, start=1), strict=True
    ):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{number}. {name}**")
            st.caption(what)
    running = job_actions.running(shell)
    overview_training.live(shell)
    others = [job for job in running if not overview_training.trains(job)]
    job_progress.strip(shell, others)
    _ways(shell, any(name == "demo" for job in running for name, _ in job_actions.subjects(job)))
    st.caption(plain(f"Workspace: {job_actions.shown(shell, str(shell.workspace.root))}"))


def _ways(shell: Shell, demo_runs: bool) -> None:
    left, right = st.columns(2, gap="medium")
    researcher = shell.person.role == "researcher"
    with left.container(border=True, height="stretch"):
        st.markdown("**The quick way**")
        st.write("An SAE on the embedded language model, from start to scored features. About "
                 "three minutes on a laptop; no download.")  # fmt: skip
        if researcher and st.button("Train the demo", type="primary", disabled=demo_runs,
                                    icon=":material/play_arrow:", key="welcome.demo"):  # fmt: skip
            arguments = ["demo", "--no-app", "--workspace", str(shell.workspace.root)]
            job_actions.start(shell, arguments, "Train the demo")
        st.caption("Or in a terminal:")
        st.code("make demo", language="bash")
    with right.container(border=True, height="stretch"):
        st.markdown("**Your own model and text**")
        st.write("Any Hugging Face causal language model, any layer, your text; or an SAE that "
                 "another program saved.")  # fmt: skip
        if researcher:
            with st.container(horizontal=True):
                if st.button("Train", key="welcome.train", icon=":material/model_training:"):
                    shell.go("jobs", {"new": "train"})
                if st.button("Import", key="welcome.import", icon=":material/download:"):
                    shell.go("jobs", {"new": "import"})
        st.caption("Or in a terminal:")
        st.code(
            "python run.py train my-sae --lm PATH_OR_HUB_ID --site resid_post.2 --text TEXT\n"
            "python run.py evaluate my-sae\n"
            "python run.py harvest my-sae",
            language="bash",
            wrap_lines=True,
        )
