"""Answers which slides and patients the study rests on, and what became of each slide."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pathopatch.core.text import pluralize
from pathopatch.groups.decisions.decision import current_decisions
from pathopatch.report.collect import Study, patients_in
from pathopatch.report.markup import Html, number, paragraph, percent, picture, table, tag, warning
from pathopatch.report.plots import fraction_by_label
from pathopatch.slides.manifest import SPLITS

_STAGES = (("tile", "cut into patches"), ("predict", "predicted"))


def splits_of(study: Study) -> list[str]:
    """Return the splits that hold patches, train, val and test first."""
    if study.groups is None or "split" not in study.groups:
        return []
    present = set(study.groups["split"])
    return [split for split in SPLITS if split in present] + sorted(present - set(SPLITS))


def slide_warnings(study: Study) -> list[Html]:
    """Return one warning per way in which slides failed or came out empty, and one of shifted channels."""
    found = []
    slides = study.slides.drop_duplicates("slide_id") if len(study.slides) else study.slides
    for stage, word in _STAGES:
        for state, said in (("failed", f"could not be {word}"), ("done_empty", "hold no tissue: nothing to judge")):
            names = _in_state(slides, stage, state)
            if names:
                count = f"{len(names)} of {len(slides)} slides"
                found.append(warning(f"{count} {said} (stage {stage}): {', '.join(names)}."))
    told = [f"{row['slide_id']} ({'; '.join(row['warnings'])})" for row in slides.to_dict("records")
            if row["warnings"]]  # fmt: skip
    if told:
        found.append(warning(f"{len(told)} of {len(slides)} slides need a look: {', '.join(told)}."))
    return found


def cohort_section(study: Study, pictures: dict[str, bytes]) -> Html:
    """Return what the cohort is: splits, background, intensity windows, and tissue by label."""
    if study.slides.empty:
        return paragraph("No slide has been checked or tiled yet.", kind="absent")
    parts = [*slide_warnings(study), _split_table(study), _scanner_facts(study)]
    if study.groups is None:
        parts.append(paragraph("Groups have not been formed yet, so tissue by label is not shown.", kind="absent"))
        return tag("div", *parts)
    splits = splits_of(study)
    labels = study.attribute.label_names
    cuts = () if study.attribute.is_patch_attribute else study.thresholds
    pictures["tissue_by_label.png"] = fraction_by_label(study.groups, cuts, splits, labels=labels)
    parts += [
        tag("h3", "Tissue fraction by label"),
        picture(
            "tissue_by_label.png",
            f"Histograms of the tissue fraction of {' and '.join(labels)} patches in {', '.join(splits)}.",
            "Labelled patches that have a group; each label's bars sum to 100 %. "
            f"{'Dashed: the tissue thresholds. ' if cuts else ''}"
            "The further the two shapes lie apart, the better the amount of tissue gives the label away.",
        ),
    ]
    return tag("div", *parts)


def slides_section(study: Study) -> Html:
    """Return the table of all slides."""
    if study.slides.empty:
        return paragraph("No slide has been checked or tiled yet.", kind="absent")
    is_confidence_known = study.slides["tissue_confidence"].notna().any()  # older stores say nothing of it
    header = ["slide", "patient", "split", "channels", "background", "tile", "predict", "mpp, um/px", "patches",
              "with tissue", "labelled", "tumour", "tissue, %"]  # fmt: skip
    header += ["tissue confidence"] if is_confidence_known else []
    rows = [
        (
            row["slide_id"],
            row["patient_id"],
            row["split"] or "–",
            ", ".join(row["channels"]) or "–",
            row["background"] or "–",
            _state(row, "tile"),
            _state(row, "predict"),
            number(_value(row["mpp"]), 4),
            *(_count(row[name]) for name in ("patches", "with_tissue", "labelled", "tumor")),
            percent(_value(row["tissue_share"])),
            *((number(_value(row["tissue_confidence"]), 2),) if is_confidence_known else ()),
        )
        for row in study.slides.to_dict("records")
    ]
    caption = "One row a slide. Patches lie side by side or overlap, as the grid was set; blank ones are counted too."
    parts = [table(caption, header, rows, text_columns=7)]
    windows = [
        (row["slide_id"], channel, number(_value(low), 1), number(_value(high), 1))
        for row in study.slides.drop_duplicates("slide_id").to_dict("records")
        for channel, (low, high) in zip(row["channels"], row["windows"], strict=False)
    ]
    if windows:
        parts += [
            tag("h3", "Intensity windows"),
            table(
                "Stored values between low and high are scaled to 0 to 1, per slide and channel; values outside are "
                "clipped. A window far from its neighbours points to another exposure or stain.",
                ("slide", "channel", "low", "high"),
                windows,
                text_columns=2,
            ),
        ]
    return tag("div", *parts)


def gallery_section(study: Study, thumbnails: dict[str, str]) -> Html:
    """Return the overlays of all predicted slides."""
    if not study.overlays:
        return paragraph("No slide has been predicted yet, so there are no heatmaps.", kind="absent")
    broken = [slide for slide in study.overlays if slide not in thumbnails]
    known = {row["slide_id"]: row for row in study.slides.to_dict("records")} if len(study.slides) else {}
    decided = {row.slide_id: row for row in current_decisions(study.decisions) if row.x is None}
    figures = []
    for slide, file in thumbnails.items():
        row = known.get(slide, {})
        counts = row.get("predict_counts") or {}
        told = [slide, str(row.get("split", ""))]
        decision = "" if slide not in decided else f"{decided[slide].verdict} by {decided[slide].reviewer}"
        if counts:
            told.append(f"{counts.get('tumour', 0)} of {counts.get('predicted', 0)} predicted patches called tumour")
        flagged = (row.get("predict_summary") or {}).get("flagged_share")
        told += [f"{percent(flagged)} % flagged" if flagged is not None else "", decision]
        image = tag("img", src=file, alt=f"Probability of tumour drawn on slide {slide}.", loading="lazy")
        link = tag("a", image, href=file)
        figures.append(tag("figure", link, tag("figcaption", ", ".join(part for part in told if part))))
    said = paragraph(
        "Probability of tumour per patch, dark (0) to yellow (1) as in each picture's legend; clear where nothing was "
        "predicted. The work folder has each at full size, heatmaps/<slide>/overlay.png."
    )
    warnings = [warning(f"These overlays cannot be read: {', '.join(broken)}.")] if broken else []
    return tag("div", *warnings, said, tag("div", *figures, class_="gallery"))


def _split_table(study: Study) -> Html:
    """Return slides, patients and patches per split."""
    slides = study.slides
    rows = []
    for split in [*SPLITS, ""]:
        part = slides[slides["split"] == split]
        if part.empty:
            continue
        tissue = (part["tissue_share"].astype(float) * part["patches"].astype(float)).sum()
        patches = part["patches"].astype(float).sum()
        rows.append(
            (
                split or "no split yet",
                len(part),
                patients_in(part),
                *(f"{int(part[name].astype(float).sum())}" for name in ("patches", "with_tissue", "labelled", "tumor")),
                percent(tissue / patches if patches else float("nan")),
            )
        )
    header = ("split", "slides", "patients", "patches", "with tissue", "labelled", "tumour", "tissue share, %")
    shared = slides[slides["split"] != ""].groupby("patient_id")["split"].nunique() > 1
    if shared.any():
        return tag(
            "div",
            warning(f"Patients in more than one split: {', '.join(map(str, shared[shared].index))}. Results are void."),
            table("Slides, patients and patches.", header, rows),
        )
    return table("Slides, patients and patches; no patient is in two splits.", header, rows)


def _scanner_facts(study: Study) -> Html:
    """Return background, channels and resolution over the cohort, and how many slides have each."""
    slides = study.slides.drop_duplicates("slide_id")  # a set of ready patches has a row a split
    facts = (
        ("Background", slides["background"].replace("", "not known")),
        ("Channels", slides["channels"].map(lambda names: ", ".join(names) or "not known")),
        ("Resolution", slides["mpp"].map(lambda mpp: "not known" if pd.isna(mpp) else f"{mpp:.4g} um/px")),
    )
    items: list[Html] = []
    for name, values in facts:
        counts = values.value_counts().sort_index()
        items += [
            tag("dt", name),
            tag("dd", "; ".join(f"{value} ({pluralize(count, 'slide')})" for value, count in counts.items())),
        ]
    return tag("dl", *items)


def _in_state(slides: pd.DataFrame, stage: str, state: str) -> list[str]:
    """Return the names of the slides in a state, with the message of those that failed."""
    if slides.empty:
        return []
    rows = slides[slides[f"{stage}_state"] == state].to_dict("records")
    return [
        f"{row['slide_id']} ({row[f'{stage}_message']})" if state == "failed" else str(row["slide_id"]) for row in rows
    ]


def _state(row: dict[Any, Any], stage: str) -> Html | str:
    """Return a stage's state of one slide; trouble stands out."""
    state = str(row[f"{stage}_state"])
    said = {"": "–", "done_empty": "EMPTY: no tissue", "failed": "FAILED"}.get(state, state)
    return tag("strong", said) if state in ("failed", "done_empty") else said


def _value(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _count(value: Any) -> str:
    return "–" if value is None or pd.isna(value) else f"{int(value)}"
