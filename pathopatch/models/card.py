"""The model card: what a reader must know before using a model, from the bundle's own numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pathopatch.core.text import pluralize
from pathopatch.models.interior import CROPS, FULL, rim_px
from pathopatch.models.spec import ONNX_NETWORK, AreaReliance, BackboneSpec, BundleSpec
from pathopatch.slides.resample import EXACT_READ_FACTOR

_CARD = """# Patch classifier: {spec.method}

Classifies each patch of a slide as {classes}. **For research only; not for diagnosis.**{note}

| | |
|---|---|
{inputs}
| blank glass | below a tissue share of {spec.min_tissue:g} nothing is predicted |
| not scanned | patches of which less than {spec.min_scanned:g} was scanned are not predicted |
| decision | {decision} |
| runs by | {runtimes} |
| temperature | {spec.temperature:g} |
| trained by | {parameters} |

## Data
{data}

## On validation patches
{validation}

## Limits
{limits}
"""
_PATCHES = """| network | {spec.architecture}, input {spec.input_px} px{mask} |{backbone}
| channels, in order | {channels} ({spec.dtype}) |
| background | {background} |
| patch | {spec.patch_px} px, step {spec.stride_px} px, {scale} |
| read from | {level} |
| intensity | {intensity} |"""
_FEATURES = """| network | {spec.architecture}, a head on features |
| features | {dim} values per patch ({spec.dtype}) |
| encoder | {encoder} |"""
_OTHER_FEATURES = """The model needs features of that encoder, with that pooling and input size, of patches
cut as in its training. Features of another encoder of the same length give meaningless numbers without an error."""
_LIMITS = """The model was not trained on other channels, stains, scanners or scales than those above. In its training
data, the tissue share predicts the label; the evaluation's shortcut audit measures how far the model still relies on
it."""
_IMPORTED = """The model was made elsewhere, by: {made_by}. Its licence: {licence}.
pathopatch knows neither its training data nor its accuracy. `pathopatch evaluate WORK --model BUNDLE` measures that
on labelled patches. `pathopatch audit-model BUNDLE SLIDES -o OUT` asks without labels whether it relies on the tissue
area, and how much of the slides' glass it calls {second}.

Of its classes ({classes}) these count as tumour: {second}. A patch counts as {second} if its probability exceeds one
half; other programs mark the class of the largest probability."""
_TORCHSCRIPT = """Its network is TorchScript, a program of its makers: `model.torchscript`. Programs that read or
write files are refused. OpenVINO runs `model.onnx`, which can do neither."""
_VERDICTS = {
    "relies": "it relies on it",
    "not shown": "no reliance shown",
    "not known": "not known",
}
_ASKED = """Does it lean on the tissue area? Without labels: {text}. Reliance on fat or density that goes
along with the area would not be seen, and the verdict says nothing of accuracy."""
_WEAK = 0.7  # accuracy of a group
_UNKNOWN_SCALE = """The um/px of its training patches are unknown. Every slide is predicted at its own scale, with a
warning; if the training patches had another scale, the probabilities mean nothing."""
_SELECTED = """The model was selected on these patches, so the numbers are optimistic. Run `pathopatch evaluate` on
patients that neither training nor selection has used. Group accuracies of few patches are noisy."""
_COMPOSED = """A group has no validation patch. These numbers are of composed copies of the others, and far too good:
they served to select the model, and are no estimate of its accuracy."""
_MEASURES = (
    ("wga", "worst-group accuracy"),
    ("gba", "group-balanced accuracy"),
    ("cba", "class-balanced accuracy"),
    ("average", "accuracy"),
    ("equal_area", "AUROC at equal area"),
)
_LOSSES = {"nll": "negative log-likelihood", "nll_at_one": "the same with temperature 1"}
_UNKNOWN = "not known"
NOTE = "note"
"""Key of a bundle's `parameters`: what whoever uses the model must know first."""
_FINGERPRINTS = ("groups", "patches", "config")


def model_card(spec: BundleSpec) -> str:
    """Return the model card in Markdown; values that the bundle lacks are stated to be unknown."""
    runtimes = "torch alone: there is no model.onnx" if spec.onnx is None else "OpenVINO (model.onnx) or torch"
    if spec.architecture == ONNX_NETWORK:
        runtimes = "OpenVINO alone, by model.onnx"
    if spec.encoder is not None:
        runtimes = "NumPy or torch"
    parameters = sorted((name, value) for name, value in spec.parameters.items() if name != NOTE)
    return _CARD.format(
        spec=spec,
        classes=_classes_text(spec),
        decision=_cell(decision_text(spec)),
        inputs=_inputs_text(spec),
        runtimes=runtimes,
        note=f"\n\n**{note}**" if (note := spec.parameters.get(NOTE)) else "",
        parameters=_cell(", ".join(f"{name} = {value}" for name, value in parameters) or spec.method),
        data=_data(spec),
        validation=_validation(spec),
        limits="\n\n".join([_imported(spec) or _LIMITS, *_further_limits(spec)]),
    )


def classifier_text(spec: BundleSpec) -> str:
    """Describe in one line what a model takes and what it tells apart."""
    if spec.encoder is not None:
        source = f"{len(spec.mean)} features of {spec.encoder.get('name') or 'an unnamed encoder'}"
    else:
        source = f"{', '.join(spec.channels)}, {spec.patch_px} px at {scale_text(spec)}"
    return f"{_classes_text(spec)} by {source}"


def _classes_text(spec: BundleSpec) -> str:
    return " or ".join(reversed(spec.class_names)) if len(spec.class_names) == 2 else ", ".join(spec.class_names)


def _backbone_text(backbone: BackboneSpec) -> str:
    """Describe in one line where the weights of a frozen backbone are from, and where they are."""
    where = "in this bundle" if backbone.in_bundle else "not in this bundle"
    licence = backbone.licence or f"{_UNKNOWN}, of a file that whoever trained the model named"
    return f"frozen; weights of {backbone.source}, {where}; licence: {licence}; SHA-256 {backbone.weights_sha256}"


def _encoder_text(encoder: Mapping[str, Any]) -> str:
    """Return all that is known of the encoder of a head."""
    parts = [str(encoder.get("name", "of unknown name"))]
    for key, value in sorted(encoder.items()):
        if key not in ("name", "dim"):
            parts.append(f"{key} {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}")
    return "; ".join(parts)


def _inputs_text(spec: BundleSpec) -> str:
    """Return the rows of the table about network and input."""
    if spec.encoder is not None:
        return _FEATURES.format(spec=spec, dim=len(spec.mean), encoder=_cell(_encoder_text(spec.encoder)))
    level = "the finest level"
    if spec.mpp is not None:
        level = (
            f"the slide's finest level of {spec.mpp / EXACT_READ_FACTOR:g} to {spec.mpp:g} um/px; where it has none, "
            "its coarsest finer one; each px is the mean of the area that it covers"
        )
    return _PATCHES.format(
        spec=spec,
        mask={
            "none": "",
            "normalise": "; it needs the tissue mask of each patch, and sees tissue alone",
            "interior": f"; it needs the tissue mask of each patch. {crop_text(spec)}",
        }[spec.mask],
        backbone=f"\n| backbone | {_cell(_backbone_text(spec.backbone))} |" if spec.backbone else "",
        channels=_cell(", ".join(spec.channels)),
        background="dark or bright" if spec.background == "auto" else spec.background,
        scale=scale_text(spec),
        level=level,
        intensity=_cell(intensity_text(spec)),
    )


def _imported(spec: BundleSpec) -> str:
    """Return the limits of a model that was imported; empty for one that was trained here."""
    if not spec.is_imported:
        return ""
    facts = {name: spec.parameters.get(name, _UNKNOWN) for name in ("made_by", "licence", "classes")}
    text = _IMPORTED.format(**facts, second=spec.class_names[1])
    return f"{text}\n\n{_TORCHSCRIPT}" if spec.torchscript else text


def crop_text(spec: BundleSpec) -> str:
    """Describe how a patch is read by crops; empty for a model that reads it whole."""
    if spec.crop_px is None:
        return ""
    return (
        f"Of each patch, at {spec.input_px} px, up to {CROPS} crops of {spec.crop_px} px are read that lie far apart "
        f"in its tissue: the mask without holes, eroded by {rim_px(spec.input_px)} px, covers at least {FULL:.0%} of "
        "each. The logit is their mean. A patch without such a crop has no answer."
    )


def decision_text(spec: BundleSpec) -> str:
    """Describe how a patch is classified."""
    if spec.decision_probability is None:
        return "the class of the largest logit"
    return (
        f"{spec.class_names[1]} if the logit exceeds {spec.decision_threshold:.4g} "
        f"(chosen for: {spec.decision_chosen_for}), that is a probability above {spec.decision_probability:.4g}"
    )


def scale_text(spec: BundleSpec) -> str:
    """Describe the scale of the patches."""
    return "unknown scale" if spec.mpp is None else f"{spec.mpp:g} um/px"


def intensity_text(spec: BundleSpec) -> str:
    """Describe how intensities are scaled to [0, 1]."""
    rule = spec.intensity
    is_rgb = spec.channels == ("R", "G", "B") and spec.dtype == "uint8"
    windows = {name: rule.windows[name] for name in spec.channels if name in rule.windows}
    given = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in windows.items())
    if is_rgb:
        return f"0 to 255, but {given} (given)" if given else "0 to 255"
    percentiles = f"percentiles {rule.low_percentile:g} to {rule.high_percentile:g} of tissue"
    if given:
        return f"{given} (given); other channels {percentiles}, per slide"
    return f"{percentiles}, per slide and channel"


def _data(spec: BundleSpec) -> str:
    """Return the section on training and validation data: counts, groups, fingerprints."""
    summaries = [(name, spec.data[name]) for name in ("trained", "validated") if name in spec.data]
    if not summaries:
        return "The bundle does not say how many slides, patients and patches it was trained on."
    rows = [
        (f"{name} on {' and '.join(part['splits'])}", part["slides"], part["patients"], part["patches"])
        for name, part in summaries
    ]
    parts = [_table(("", "slides", "patients", "patches"), rows)]
    trained, *rest = (part for _, part in summaries)
    # Training may draw by bins while validation selects at a threshold: other groups have no column here.
    shown = [part for part in rest if _grouping(part) == _grouping(trained)]
    header = ("group", "trained on", *("validated on" for _ in shown))
    counts = [_cells(part) for part in (trained, *shown)]
    parts.append("; ".join([f"Groups {trained['by']}", *filter(None, [spec.data.get("drawn_by")])]) + ".")
    parts.append(_table(header, zip(_groups(spec, trained), *counts, strict=True)))
    if verdict := spec.data.get("audit"):
        parts.append(f"Audit of these data before training: {verdict}")
    fingerprints = [f"{name} {spec.training[name][:16]}" for name in _FINGERPRINTS if name in spec.training]
    if fingerprints:
        marked = "; the bundle marks each slide by its content" if "train_slides" in spec.training else ""
        parts.append(f"Fingerprints: {', '.join(fingerprints)}{marked}.")
    return "\n\n".join(parts)


def _validation(spec: BundleSpec) -> str:
    """Return the section on validation, at the decision threshold."""
    metrics = spec.group_metrics
    if not metrics:
        return "None were computed."
    measures = [
        (words, _number(metrics[name]), _interval(metrics, name), _number(metrics.get(f"{name}_at_zero")))
        for name, words in _MEASURES
        if name in metrics
    ]
    parts = [_table(("at the decision threshold", "", "95 % interval", "with threshold 0"), measures)]
    if metrics.get("patients"):
        parts.append(
            f"The intervals resample the {metrics['patients']} validation {_unit(spec)}s, not the patches."
            if metrics["patients"] > 1
            else f"There is one validation {_unit(spec)}, so variation between {_unit(spec)}s is unknown: no interval."
        )
    if groups := _group_accuracies(spec):
        rows = [(name, n, _number(accuracy)) for name, n, accuracy in groups[1]]
        parts.append(_table((f"group {groups[0]}", "patches", "accuracy"), rows))
    # Whatever else training stored has a table of its own, so that the card hides nothing.
    shown = {name for name, _ in _MEASURES} | {"patients", "is_threshold_tuned", "is_composed"}
    other = [
        (_LOSSES.get(name, name), _number(value))
        for name, value in metrics.items()
        if name.removesuffix("_low").removesuffix("_high").removesuffix("_at_zero") not in shown
        and not (groups and name.startswith(("accuracy of ", "n of ")))
    ]
    if metrics.get("is_composed"):
        parts.insert(0, _COMPOSED)
    return "\n\n".join([*parts, *([_table(("", ""), other)] if other else []), _SELECTED])


def _group_accuracies(spec: BundleSpec) -> tuple[str, list[tuple[str, Any, float | None]]] | None:
    """Return how validation's groups are formed; a name, size and accuracy for each. None if the bundle names none."""
    part = spec.data.get("validated")
    if not part:
        return None
    pairs = [(y, a) for y in range(len(spec.class_names)) for a in range(len(part["attributes"]))]
    keys = [f"label {y}, attribute {a}" for y, a in pairs]
    metrics = spec.group_metrics
    rows = [
        (name, metrics[f"n of {key}"], metrics.get(f"accuracy of {key}"))
        for name, key in zip(_groups(spec, part), keys, strict=True)
        if f"n of {key}" in metrics
    ]
    return (part["by"], rows) if rows else None


def _further_limits(spec: BundleSpec) -> list[str]:
    """Return the limits that follow from what was asked of the model, and from the numbers."""
    limits = [_ASKED.format(text=text)] if (text := reliance_text(spec.area_reliance)) else []
    limits += [_OTHER_FEATURES] if spec.encoder is not None else [] if spec.mpp is not None else [_UNKNOWN_SCALE]
    if part := spec.data.get("trained"):
        cells, names = _cells(part), _groups(spec, part)
        least = min(cells)
        smallest = "; ".join(name for name, n in zip(names, cells, strict=True) if n == least)
        limits.append(f"The smallest training group has {least} patches: {smallest}.")
    if spec.group_metrics.get("is_threshold_tuned"):
        limits.append(
            "The decision threshold was chosen on the validation patches of these numbers; another scanner or share of "
            "tumour may need another one."
        )
    return limits


def beware(spec: BundleSpec) -> list[str]:
    """Return what a reviewer should know beside a model's answers: its note, reliance on area, a weak worst group."""
    text = reliance_text(spec.area_reliance)
    asked = [str(spec.parameters[NOTE])] if NOTE in spec.parameters else []
    asked += [f"Does the model lean on the tissue area? {text[0].upper()}{text[1:]}."] if text else []
    rows = (_group_accuracies(spec) or ("", []))[1]
    weak = [(accuracy, name, n) for name, n, accuracy in rows if accuracy is not None and accuracy < _WEAK]
    if not weak:
        return asked
    accuracy, name, n = min(weak)
    units = pluralize(int(spec.group_metrics["patients"]), f"validation {_unit(spec)}")
    of = f"{n} patches, {units}"
    grade = "below a coin" if accuracy < 0.5 else "weak"
    return [*asked, f"The model's worst group is {grade}: {accuracy:.0%} right of {name} ({of})."]


def _unit(spec: BundleSpec) -> str:
    """Return what the intervals of validation resample."""
    return "block" if "blocks" in spec.data.get("validated", {}) else "patient"


def reliance_text(found: AreaReliance | None) -> str:
    """Return what was found of a model's reliance on the tissue area; empty where nobody has asked."""
    if found is None:
        return ""
    verdict = _VERDICTS[found.verdict]
    if found.direction:
        verdict += f" ({'more' if found.direction > 0 else 'less'} tissue, more tumour)"
    numbers = [f"{name} {value:.2f}" for name, value in (("eta", found.eta), ("adj", found.adj)) if value is not None]
    of = f"{found.patches} patches of {found.slides} slides and {pluralize(found.patients, found.unit)}"
    return f"{verdict}; asked on {found.date} by {', '.join([of, *numbers])}"


def _grouping(part: Mapping[str, Any]) -> tuple[str, list[str]]:
    return part["by"], list(part["attributes"])


def _cells(part: Mapping[str, Any]) -> list[int]:
    """Return the counts of all groups in one row, label by label."""
    return [int(n) for row in part["counts"] for n in row]


def _groups(spec: BundleSpec, part: Mapping[str, Any]) -> list[str]:
    """Return the names of the groups, in the order of `_cells`."""
    return [f"{label}, {value}" for label in spec.class_names for value in part["attributes"]]


def _interval(metrics: Mapping[str, Any], name: str) -> str:
    low, high = (_number(metrics.get(f"{name}_{end}")) for end in ("low", "high"))
    return _UNKNOWN if _UNKNOWN in (low, high) else f"{low} to {high}"


def _number(value: Any) -> str:
    """Return a number as text; a file stores NaN as null, and both read the same."""
    if value is None or value != value:
        return _UNKNOWN
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    """Return a value as text of one cell: a bare bar would end it."""
    return str(value).replace("|", r"\|")
