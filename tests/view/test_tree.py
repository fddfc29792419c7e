"""The tree as boxes."""

from homer import Trace, TracedDocument, plan_merge
from homer.view.tree import describe_tree, lay_out_tree, name_levels


def test_boxes_are_as_wide_as_what_they_stand_for() -> None:
    plan = plan_merge(4, 300, 5, layers=16, max_chunk_len=100, target_len=64, layers_warmup=6)
    document = TracedDocument("a.txt", "text", 0, 300, (260, *[0] * plan.height, 40), ())
    tree = lay_out_tree(Trace((document,), plan))
    assert [len(row.boxes) for row in tree.rows] == [1, 2, 4, 1]
    assert tree.label == describe_tree(plan)
    root, leaves = tree.rows[0].boxes[0], tree.rows[2].boxes
    assert abs(sum(box.width for box in leaves) - root.width) < 8
    for row in tree.rows[:-1]:
        for box in row.boxes:
            assert abs(sum(part.height for part in box.parts) - 38) < 0.11
    assert name_levels(plan) == ["dropped at the leaves", "dropped at level 1", "dropped at the root", "kept"]
