"""`fovea doctor` for the cold start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl import ModelConfig

from doctor.disk import full_disk
from doctor.environment import Subject, misread_boxes, resized_images
from doctor.findings import Examination, Note
from doctor.fit import Launch, exceeded_sft_memory, lost_updates
from doctor.memory import Sharding, device_gib
from doctor.model import mask_of_images, read_model
from doctor.settings import read_launch, read_settings
from doctor.traces import boxes_in_another_frame, crops_of_another_size, misplaced_loss, unfit_traces
from sft.arguments import ARGUMENTS, SFTScriptArguments, check_options


def examine(examination: Examination, words: Sequence[str]) -> str | None:
    """Examines what `train_sft.py` would do with these words; where the findings are to be written."""
    check = examination.check
    parsed = check("settings", read_settings, ARGUMENTS, "tiny_sft.yaml", words)
    if parsed is None:
        return None
    script, episodes, model_args, args, doctor = parsed
    check("options", options_without_effect, args, script, model_args)
    records = check("traces", lambda note: script.read_traces())
    loaded = check("model", lambda note: read_model(
        note, model_args.model_name_or_path, script, load_weights=doctor.load_weights,
        trust_remote_code=args.trust_remote_code))  # fmt: skip
    if loaded is not None:
        check("mask", mask_of_images, loaded[0], script.intra_image_layers)
    subject = loaded and check("environment", lambda note: Subject.of(loaded, [], episodes))
    if subject is None:
        return doctor.json
    check("coordinates", misread_boxes, subject)
    check("image sizes", resized_images, subject)
    if records is not None:
        check("traces", unfit_traces, records, args)
        longest = check("loss mask", misplaced_loss, subject, records, args.max_length)
        if episodes.cuts_crops or not episodes.is_ours:
            check("boxes in traces", boxes_in_another_frame, subject, records)
            check("crops in traces", crops_of_another_size, subject, records)
        sharding = check("launch", read_launch, doctor.accelerate_config) or Sharding()
        launch = Launch(model_args, args, sharding, doctor.gpu_memory_gib or device_gib(), script)
        check("precision", lost_updates, subject.model.network, launch)
        if longest:
            check("memory", exceeded_sft_memory, subject, longest, launch)
        check("disk", full_disk, subject.model.network, launch.num_steps(len(records)), launch)
    return doctor.json


def options_without_effect(note: Note, args: Any, script: SFTScriptArguments, model_args: ModelConfig) -> None:
    """Options that are set and would have no effect."""
    check_options(args, script, model_args)
    note.ok("every option that is set takes effect")
