"""Which of a source's cases a recipe uses: its filter, its composition, its cap."""

from collections.abc import Iterator

from flash_ray.data.composition import unique_counts
from flash_ray.data.index import Entry, Index
from flash_ray.data.miniature_source import training_case
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.recipe.checks import unknown
from flash_ray.recipe.schema import Filter

PATIENCE = 50  # drawn cases for each that a filter must let through


def choose_entries(recipe: Recipe, task: str, index: Index) -> dict[str, list[Entry]]:
    """The first cases of each category by digest: any order of rows and files gives the same.

    Raises:
        UserError: a category is not in the files, or has too few cases that the filter lets pass.
    """
    by_category: dict[str, list[Entry]] = {}
    for entry in index.entries:
        by_category.setdefault(entry.category, []).append(entry)
    chosen = {}
    for category, count in _asked(recipe, task):
        field = f"data.composition.{task}.{category}"
        if category not in by_category:
            raise UserError(unknown(field, category, sorted(by_category), "category"))
        fit = [e for e in by_category[category] if passes(recipe.data.filter, e)]
        if len(fit) < count:
            raise UserError(_too_few(field, count, len(fit), recipe))
        chosen[category] = sorted(fit, key=lambda entry: entry.digest)[:count]
    return chosen


def choose_drawn(recipe: Recipe, task: str, multiple: int) -> dict[str, list[int]]:
    """For each category the indices of the miniature's first cases that the filter lets pass; up to
    a multiple of `multiple`, where there are that many.

    Raises:
        UserError: it lets fewer pass than the recipe asks for.
    """
    wanted, chosen = recipe.data.filter, {}
    for category, count in _asked(recipe, task):
        whole = -(-count // multiple) * multiple
        if wanted == Filter():
            chosen[category] = list(range(whole))
            continue
        found = list(_drawn(wanted, task, category, whole))
        if len(found) < count:
            field = f"data.composition.{task}.{category}"
            raise UserError(_too_few(field, count, len(found), recipe))
        chosen[category] = found
    return chosen


def passes(wanted: Filter, case: Entry) -> bool:
    """Whether every condition of the filter holds."""
    fewest, most = wanted.length or (0, case.length)
    return (
        fewest <= case.length <= most
        and (wanted.subsets is None or case.subset in wanted.subsets)
        and wanted.rendered_text in (None, case.rendered_text)
        and (
            wanted.min_score is None or (case.score is not None and case.score >= wanted.min_score)
        )
    )


def _asked(recipe: Recipe, task: str) -> Iterator[tuple[str, int]]:
    return ((name, count) for name, count in unique_counts(recipe, task).items() if count)


def _drawn(wanted: Filter, task: str, category: str, count: int) -> Iterator[int]:
    found = 0
    for index in range(PATIENCE * count):
        if found == count:
            return
        case = training_case(task, category, index)
        entry = Entry("", category, len(case.prompt), (), None, None, case.rendered_text)
        if passes(wanted, entry):
            found += 1
            yield index


def _too_few(field: str, count: int, found: int, recipe: Recipe) -> str:
    why = " that data.filter lets pass" if recipe.data.filter != Filter() else ""
    cure = f"set data.cap={found} (they come round more often), or lower data.prompts"
    return (
        f"{field}: {count} cases asked for, the source has {found}{why}; allowed: as many as there "
        f"are; {cure if found else 'take the category out, or loosen data.filter'}"
    )
