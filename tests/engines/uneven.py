"""GRPO in which each process generates more often than the one before it, as where its episodes take more turns:
`uneven.py`, and the options of rl/train_grpo.py."""

from environments.policies.transformers import TransformersPolicy
from fovea.processes import process_state
from rl import train_grpo

plain = TransformersPolicy._generate


def more_often(self, conversations, max_tokens):
    for _ in range(process_state().process_index):
        plain(self, conversations[:1], 8)
    return plain(self, conversations, max_tokens)


if __name__ == "__main__":
    TransformersPolicy._generate = more_often
    train_grpo.main()
