"""Which classes of a model and a dataset are compared: those of the same names."""

from collections.abc import Sequence

from vpp_deploy.errors import DatasetError
from vpp_deploy.evaluation.dataset import Dataset


def match_classes(
    classes: Sequence[str], dataset: Dataset, *, shared_only: bool
) -> tuple[Dataset, list[str]]:
    """The dataset with the categories that the model has, and notes of what was left out.

    Raises:
        DatasetError: no instance counts, or some classes differ and `shared_only` is not set.
    """
    named = set(dataset.categories.values())
    shared = named & set(classes)
    of_model = [name for name in classes if name not in shared]
    of_dataset = [name for name in dataset.categories.values() if name not in shared]
    left = dataset.only(shared)
    labelled = any(not instance.is_crowd for instance in left.instances)
    if not of_model and not of_dataset:
        if not labelled:
            raise DatasetError(
                f"{dataset.path} labels nothing but crowds, which do not count; give a dataset "
                "with instances"
            )
        return dataset, []
    differences = "; ".join(
        f"{len(names)} of {owner} ({', '.join(names)})"
        for names, owner in ((of_model, "the model alone"), (of_dataset, "the dataset alone"))
        if names
    )
    if not labelled:
        raise DatasetError(
            f"{dataset.path} labels no instance of the model's classes: {differences}; give a "
            "dataset with classes of the same names"
        )
    if not shared_only:
        raise DatasetError(
            f"model and {dataset.path} have different classes: {differences}; use --shared-classes "
            f"to compare the {len(shared)} that both have"
        )
    compared = "1 class is" if len(shared) == 1 else f"{len(shared)} classes are"
    return left, [f"{compared} compared; left out: {differences}"]
