import pytest

from lgnn_jax.atlas import class_sets

# The labels of CIFAR-100 in their order, and of CIFAR-10, as the archives' own files list them.
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum
rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = _CIFAR100.split()
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR10 = _CIFAR10.split()


def test_superclasses_are_those_of_cifar_100():
    """Every class once, five to each of the 20 superclasses."""
    sets = class_sets.NAMED["cifar100"]
    assert len(sets) == 20
    assert {len(names) for names in sets.values()} == {5}
    assert sorted(name for names in sets.values() for name in names) == CIFAR100
    assert sorted(sum(class_sets.NAMED["cifar10"].values(), ())) == CIFAR10
    assert class_sets.members("trees", "cifar100", CIFAR100) == (47, 52, 56, 59, 96)


def test_sets_join_as_classes_do():
    joined = class_sets.members("vehicles+cat+ship", "cifar10", CIFAR10)
    assert [CIFAR10[label] for label in joined] == [
        "airplane",
        "automobile",
        "ship",
        "truck",
        "cat",
    ]
    with pytest.raises(ValueError, match=r"'vehicle'; did you mean 'vehicles'\? Join them by"):
        class_sets.members("vehicle+cat", "cifar10", CIFAR10)
    with pytest.raises(ValueError, match=r"'zebra'\. Join them by '\+', as in 'airplane\+auto"):
        class_sets.members("zebra", "cifar10", CIFAR10)
    for text in ("cat+", "+cat", "cat++dog", ""):
        with pytest.raises(ValueError, match="the name of a class is missing in"):
            class_sets.members(text, "cifar10", CIFAR10)


def test_usual_sets():
    assert class_sets.usual("cifar100", ["x"] * 100) == ("trees",)
    assert class_sets.usual("other", ["a", "b", "c", "d"]) == ("a+b+c",)
    assert class_sets.usual("other", ["a", "b", "c"]) == ("a+b",)
    assert class_sets.usual("other", ["a", "b"]) == ()
    assert class_sets.usual("other", ["c++", "d", "e"]) == ("d+e",)
    assert class_sets.members("c++", "other", ["c++", "d", "e"]) == (0,)
