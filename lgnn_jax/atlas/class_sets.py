"""Sets of classes that have something in common, to look for what they share on a map."""

from collections.abc import Sequence

from lgnn_jax.maps.words import did_you_mean

# Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009: the 20 superclasses.
_CIFAR100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_CIFAR10 = {
    "vehicles": "airplane automobile ship truck",
    "animals": "bird cat deer dog frog horse",
}
NAMED = {
    "cifar10": {name: tuple(text.split()) for name, text in _CIFAR10.items()},
    "cifar100": {name: tuple(text.split()) for name, text in _CIFAR100.items()},
}
_USUAL = {"cifar10": ("automobile+truck", "animals"), "cifar100": ("trees",)}


def usual(data_name: str, class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the sets of classes to look at where none are named, as `members` takes them.

    None for two classes or one, which share nothing that others do not.
    """
    if data_name in _USUAL:
        return _USUAL[data_name]
    names = [name for name in class_names if "+" not in name][: min(3, len(class_names) - 1)]
    return ("+".join(names),) if names and len(class_names) > 2 else ()


def members(text: str, data_name: str, class_names: Sequence[str]) -> tuple[int, ...]:
    """Returns the classes that a text names.

    Args:
      text: sets of `NAMED[data_name]` and classes, joined by "+".
      data_name: the data set.
      class_names: of its classes, in the order of their labels.

    Returns:
      Their labels, in the order in which they are named, each once.

    Raises:
      ValueError: for a name that is neither a set nor a class, or is missing, and for all classes
        together.

    Example:
      >>> members("ship+cat", "cifar10", ["cat", "dog", "ship"])
      (2, 0)
    """
    named = NAMED.get(data_name, {})
    known = list(class_names)
    labels = []
    for part in parts(text, known):
        if not part.strip():
            raise ValueError(f"the name of a class is missing in {text!r}.")
        if part not in known and part not in named:
            raise ValueError(
                f"{data_name} has no class or set of classes {part!r}"
                + did_you_mean(part, [*known, *named])
                + f" Join them by '+', as in {'+'.join(known[:2])!r}."
            )
        labels += map(known.index, [part] if part in known else named[part])
    labels = tuple(dict.fromkeys(labels))
    if len(labels) == len(known):
        raise ValueError(f"{text!r} has all {len(known)} classes of {data_name}: leave some out.")
    return labels


def parts(text: str, class_names: Sequence[str]) -> list[str]:
    """Returns the names that "+" joins in a text; the name of a class may hold one itself."""
    return [text] if text in class_names else text.split("+")
