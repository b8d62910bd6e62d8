"""What the tests' trainings have in common."""

ON_CPU = {
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "use_cpu": True,
    "seed": 0,
}
