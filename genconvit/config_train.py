"""Settings of the loss and of training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from genconvit.config_data import Section

DEFAULT_BATCH_SIZE = 16


class LossSettings(Section):
    """Weights of the loss (docs/architecture.md has the formula)."""

    classification_weight: float = Field(
        1.0, ge=0.0, le=100.0, description="Cross entropy of the verdict."
    )
    ae_weight: float = Field(
        0.1, ge=0.0, le=100.0, description="Autoencoder's reconstruction error."
    )
    vae_weight: float = Field(
        0.1,
        ge=0.0,
        le=100.0,
        description="Variational autoencoder's loss; 1 unless given with model.arch=original.",
    )
    vae_beta: float = Field(
        1.0, ge=0.0, le=100.0, description="KL divergence inside the variational loss."
    )
    aux_weight: float = Field(
        0.1, ge=0.0, le=100.0, description="Cross entropy of each branch's own head."
    )
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of every label that is spread over both classes."
    )
    focal_gamma: float = Field(
        0.0, ge=0.0, le=10.0, description="Focal loss: how much easy crops count less; 0 is none."
    )


class TrainSettings(Section):
    """The training run."""

    epochs: int = Field(
        100, ge=1, le=100_000, description="Passes over the training crops, at most."
    )
    batch_size: int | Literal["auto"] = Field(
        DEFAULT_BATCH_SIZE,
        description="Crops a pass and worker, 2 to 65536; auto: the largest that fits the GPU.",
    )
    grad_accum_steps: int = Field(
        1, ge=1, le=4096, description="Passes whose gradients are summed before a step."
    )
    lr: float = Field(1e-4, gt=0.0, le=1.0, description="Initial learning rate of AdamW.")
    weight_decay: float = Field(1e-4, ge=0.0, le=10.0, description="Weight decay of AdamW.")
    layer_decay: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Factor of the rate from each layer to the one before it; none: all alike.",
    )
    sched: Literal["plateau", "cosine"] = Field(
        "plateau",
        description="plateau: the rate is reduced when validation stands still. cosine: it falls "
        "to min_lr over all epochs.",
    )
    warmup_epochs: float = Field(
        0.0, ge=0.0, le=10_000, description="Epochs in which the rate rises to lr."
    )
    lr_gamma: float = Field(0.5, gt=0.0, lt=1.0, description="Factor of ReduceLROnPlateau.")
    lr_patience: int = Field(
        5, ge=0, le=10_000, description="Epochs without progress before the rate is reduced."
    )
    min_lr: float = Field(1e-7, ge=0.0, le=1.0, description="The rate is not reduced below this.")
    early_stopping_patience: int = Field(
        10, ge=1, le=10_000, description="Epochs without progress before the end."
    )
    early_stopping_min_delta: float = Field(
        0.001, ge=0.0, le=1.0, description="Smallest change that is progress."
    )
    train_on_val: bool = Field(
        False,
        description="Train on the val split, too: nothing is validated then, and the last epoch "
        "is kept.",
    )
    clip_grad: float = Field(
        1.0, ge=0.0, le=1e6, description="Largest norm of the gradient; 0 does not clip."
    )
    max_skipped_steps: int = Field(
        20,
        ge=1,
        le=1_000_000,
        description="Steps in a row whose gradient is not finite, before the run ends; none of "
        "them changes the network.",
    )
    class_balance: bool = Field(True, description="Weight the classes by how rare they are.")
    freeze_epochs: int = Field(
        0, ge=0, le=100_000, description="Epochs in which the backbones stay as they began."
    )
    model_ema: bool = Field(
        False, description="Validate and keep a moving average of the weights instead of them."
    )
    model_ema_decay: float = Field(
        0.9998, gt=0.0, lt=1.0, description="Its decay a step, which it warms up to."
    )
    sync_bn: bool = Field(
        False, description="Batch norm over the crops of all workers; v2 has no batch norm."
    )
    init: str | None = Field(
        None,
        description="A detector's folder or URL to start from: network, weights and decision.",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="auto: bf16 on GPUs that have it, else fp32."
    )
    tf32: bool = Field(True, description="fp32 products on a GPU may round to TF32.")
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile of the repeated blocks; auto: on GPUs."
    )
    grad_checkpointing: bool = Field(
        False, description="Compute the backbones' activations twice to save memory."
    )
    deterministic: bool = Field(
        False, description="Only kernels that repeat bit for bit; slower on a GPU."
    )
    checkpoint_minutes: float = Field(
        10.0, gt=0.0, le=100_000, description="Minutes between saved states inside an epoch."
    )
    max_failures: int = Field(
        3,
        ge=0,
        le=10_000,
        description="Failures of workers or nodes after which the run goes on by itself.",
    )
    log_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        ("tensorboard",), description="Where curves go, separated by commas; none: nowhere."
    )
    num_workers: int | str | None = Field(
        None,
        description="Training processes, or MIN:MAX to go on with as many as the cluster has; "
        "none: one a GPU, or one where there is no GPU.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: CUDA where every worker can have one."
    )

    @field_validator("batch_size")
    @classmethod
    def _some_crops(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 2 <= value <= 65_536:
            raise ValueError("must be between 2 and 65536, or auto")
        return value

    @field_validator("num_workers")
    @classmethod
    def _some_workers(cls, value: int | str | None) -> int | str | None:
        if value is None:
            return None
        numbers = str(value).split(":")
        if not all(number.strip().isdecimal() for number in numbers) or len(numbers) > 2:
            raise ValueError("must be a number, or MIN:MAX such as 2:8")
        low, high = int(numbers[0]), int(numbers[-1])
        if not 1 <= low <= high <= 4096:
            raise ValueError("must be from 1 to 4096, or MIN:MAX such as 2:8")
        return low if low == high else f"{low}:{high}"

    @field_validator("compile", mode="before")
    @classmethod
    def _reads_yaml(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("log_to", mode="before")
    @classmethod
    def _parse_loggers(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [name.strip() for name in value.split(",")]
        return tuple(name for name in value or () if name != "none")

    @model_validator(mode="after")
    def _warms_up_to_something(self) -> TrainSettings:
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g} takes all of epochs={self.epochs}; "
                "give more epochs or a shorter warm-up"
            )
        return self

    @property
    def batch_rows(self) -> int:
        """`batch_size`, and its default where it is to be found."""
        return DEFAULT_BATCH_SIZE if self.batch_size == "auto" else self.batch_size

    @property
    def worker_range(self) -> tuple[int, int] | None:
        """Fewest and most workers; None leaves their number to the cluster."""
        if self.num_workers is None:
            return None
        numbers = str(self.num_workers).split(":")
        return int(numbers[0]), int(numbers[-1])
