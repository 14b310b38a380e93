"""Scores in the gallery: beside each other only of equal cases, by the same judge."""

from selenium.webdriver.common.by import By


def score_lines(page):
    """What the list of models says of each one's scores."""
    lines = (label.text.split("\n") for label in page.all("#models label"))
    return {first: last for first, *_, last in lines}


def choose_models(page, *models):
    for box in page.all("#models input"):
        if box.is_selected() != (box.get_attribute("value") in models):
            box.click()


def written(mean, show="{:.2f}".format):
    """A mean score as tables have it."""
    low, high = (show(value).replace("-", "−") for value in mean["interval"])
    return f"{show(mean['score'])} [{low}, {high}]".replace("-", "−")


def test_models_show_scores_of_equal_cases_only_and_the_others_are_scored_on_them(page):
    """The students were published with a case a category; `bold` is evaluated on two besides."""
    images, edits = page.settle("bold", cases=2), page.settle("bold", cases=2, task="edit")
    page.sign_in()
    page.wait(lambda: page.all("#evaluation-list > li"))
    choose_models(page, "bold")
    both = f"t2i {written(images['score'])}, edit {written(edits['score'])}"
    page.wait(lambda: score_lines(page)["bold"] == both)
    assert "the first 2 of each category of miniature" in page.one(".scores").text
    assert score_lines(page)["plain"] == "scored on 1 case of each category only"

    choose_models(page, "bold", "plain")  # what both have are the scores of a case a category
    assert "the first 1 of each category of miniature" in page.one(".scores").text
    shown = score_lines(page)
    assert shown["bold"].startswith("t2i ") and shown["plain"].startswith("t2i ")
    untrained = "; untrained: t2i 2.00, 50 % of the gap closed, edit 3.50"
    assert shown["bold"].endswith(untrained) and shown["plain"].endswith(untrained)
    assert not page.one(".scores button").is_displayed()

    choose_models(page, "teacher", "bold")
    assert score_lines(page)["bold"] == both
    button = page.one(".scores button")
    assert button.text == "Score teacher on them: 18 pictures"
    button.click()
    page.wait(lambda: "being scored" in score_lines(page)["teacher"])
    assert not button.is_displayed()
    taught = [page.settle("teacher", cases=2, task=task)["score"] for task in ("t2i", "edit")]
    expected = f"t2i {written(taught[0])}, edit {written(taught[1])}"
    page.wait(lambda: score_lines(page)["teacher"] == expected)


def test_the_list_of_evaluations_shows_scores_with_intervals_and_on_how_many_cases(page):
    found = page.settle("plain")
    page.sign_in()
    page.one("#evaluations-tab").click()
    label = "Open plain on miniature t2i, judged by exact, 1 case a category, seed 0"
    row = page.labelled(label).find_element(By.XPATH, "ancestor::li")
    score = row.find_element(By.CSS_SELECTOR, ".score").text
    assert score == f"{written(found['score'])} on 3 cases"
    assert found["score"] == {key: found["result"][key] for key in found["score"]}


def test_two_evaluations_of_equal_cases_are_laid_side_by_side(page):
    left, right = page.settle("plain"), page.settle("bold")
    page.sign_in()
    page.one("#evaluations-tab").click()
    assert not page.one("#beside").is_enabled()
    page.choose(left, right)
    page.one("#beside").click()
    page.wait(lambda: len(page.all("#evaluation .grid img")) == 6)

    heads = page.texts(".pair thead th")
    assert heads[0] == "category" and heads[3] == "difference"
    pair = [left, right] if heads[1] == "plain" else [right, left]
    assert heads[1:3] == [one["model"] for one in pair] and page.focused().text.count("beside") == 1
    said = page.api(f"/v1/evaluations/{pair[0]['id']}/beside/{pair[1]['id']}")
    assert said["unlike"] == []
    cells = page.texts(".pair tfoot td")
    signed = written(said["all"]["difference"], "{:+.2f}".format)
    assert cells == [written(said["all"]["left"]), written(said["all"]["right"]), signed]
    assert len(page.all(".pair tbody tr")) == len(said["categories"]) == 3

    answers = [{one["case"]: one for one in side["result"]["answers"]} for side in pair]
    apart = []
    for row in page.all("#evaluation .grid tbody tr"):
        case = row.find_element(By.CSS_SELECTOR, "th .soft").text
        scores = [side[case]["score"] for side in answers]
        shown = [found.text for found in row.find_elements(By.CSS_SELECTOR, ".caption strong")]
        assert shown == [f"{score:.2f}" for score in scores]
        tops = {page.box(image)["top"] for image in row.find_elements(By.TAG_NAME, "img")}
        assert len(tops) == 1  # the pictures of a case stand beside each other
        apart.append(abs(scores[0] - scores[1]))
    assert apart == sorted(apart, reverse=True)
    page.one("#evaluation .heading button").click()
    assert page.all("#evaluation *") == [] and page.focused() == page.one("#beside")


def test_two_evaluations_of_different_cases_have_no_difference_and_are_scored_alike(page):
    few, many = page.settle("plain"), page.settle("bold", cases=2)
    page.sign_in()
    page.choose(few, many)
    page.one("#beside").click()
    note = page.wait(lambda: page.one("#evaluation .unlike"))
    assert "Not scored alike: the two differ in cases (" in note.text
    assert "difference" not in page.texts(".pair thead th")
    button = note.find_element(By.TAG_NAME, "button")
    assert button.text == "Score plain on 2 cases a category"
    button.click()
    label = "Open plain on miniature t2i, judged by exact, 2 cases a category, seed 0"
    page.labelled(label)
    page.choose(page.settle("plain", cases=2), many)
    page.one("#beside").click()
    page.wait(lambda: not page.all("#evaluation .unlike"))
    assert page.texts(".pair thead th")[-1] == "difference"


def test_what_has_not_ended_cannot_be_laid_beside_anything(page):
    one = page.settle("plain")["id"]
    asked = {"model": "teacher", "task": "edit", "cases": 20, "seed": 5}
    other = page.api("/v1/evaluations", asked)["id"]
    status, answer = page.served.call("GET", f"/v1/evaluations/{one}/beside/{other}")
    assert status == 400 and answer["error"]["param"] == "id"
    assert page.served.call("DELETE", f"/v1/evaluations/{other}")[1]["status"] == "cancelled"
    assert page.served.call("GET", f"/v1/evaluations/{one}/beside/eval-none")[0] == 404
