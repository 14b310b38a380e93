"""The categories of the two tasks that the benches score and that the miniature can draw."""

T2I_CATEGORIES = ("landscape", "portrait", "text")
EDIT_CATEGORIES = ("scene", "enhancement", "object", "text", "identity", "style")
CATEGORIES = {"t2i": T2I_CATEGORIES, "edit": EDIT_CATEGORIES}
