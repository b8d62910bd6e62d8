"""The report and the served viewer in a real headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import play
from environments.policies.chain_oracle import ChainOraclePolicy
from environments.seats import Limits
from evaluation.arguments import EvaluationArguments
from evaluation.report import report
from evaluation.samples import sample_of
from evaluation.view import make_server
from fovea.boxes import Box, Frame
from fovea.data.task_files import load_tasks, save_tasks
from fovea.episodes import Answer, Call, Crop, Episode, Fault, FaultKind, Observation, StopReason, Turn
from fovea.models.loading import load_outline
from fovea.placeholders import MARK
from fovea.runs.directory import RunDirectory
from fovea.runs.records import Rollout, append
from fovea.tasks import AnswerKind
from synthesis.shapes import make_tasks
from synthesis.shapes.albums import make_albums
from tests.conftest import TINY_CROPS

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'></script>\u2028`${1}`"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that must not log an error or ask for anything outside."""
    page, problems = browser.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda asked: problems.append(asked.url) if not asked.url.startswith(OURS) else None)
    yield page
    page.close()
    assert not problems


OURS = ("file://", "data:", "http://127.0.0.1")


def played(task, answer, *, fault=False, crop_size=(64, 64)) -> Episode:
    crop = Crop(1, 0, Box(0.25, 0.25, 0.5, 0.5, Frame.UNIT), crop_size)
    call = Turn("<think>I zoom in.</think>", Call("image_zoom_in_tool", {}), Observation("", (crop,)), 9)
    turns = [call]
    if fault:
        turns.append(
            Turn("<tool_call>{</tool_call>", Fault(FaultKind.BAD_JSON, "not JSON"), Observation("not JSON"), 4, False)
        )
    last = Turn(f"<answer>{answer}</answer>", Answer(answer), None, 5)
    return Episode(task, (*turns, last), StopReason.ANSWERED)


def write_evaluation(folder, tasks_folder, answers, *, crops="true", num_samples=1, **options):
    """An evaluation whose answers are `answers(index, task)`."""
    run = RunDirectory(folder)
    arguments = EvaluationArguments(output_dir=str(folder), dataset_name=str(tasks_folder))
    run.write_start(evaluation=arguments, episodes={"crops": crops, "views": "true"})
    samples = [
        sample_of(played(task, answers(index, task), fault=index % 7 == 3, **options), number)
        for index, task in enumerate(load_tasks(tasks_folder))
        for number in range(num_samples)
    ]
    append(folder / "samples.jsonl", samples)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """SFT is right on every third task, RL on all but the sixth, whose answer is hostile."""
    folder = tmp_path_factory.mktemp("runs")
    save_tasks(make_tasks(num_tasks=24, seed=8), folder / "tasks")
    sft = write_evaluation(
        folder / "sft" / "evaluation", folder / "tasks", lambda i, t: str(t.answer) if i % 3 == 0 else "?"
    )
    rl = write_evaluation(
        folder / "rl" / "evaluation", folder / "tasks", lambda i, t: HOSTILE if i == 6 else str(t.answer)
    )
    write_evaluation(folder / "rl" / "evaluation_noise", folder / "tasks", lambda i, t: "?", crops="noise")
    (folder / "report.html").write_text("".join(report([sft.parent, rl.parent])), encoding="utf-8")
    return folder


@pytest.fixture
def opened(page, runs):
    """The report with every episode listed and nothing beside it."""
    page.goto(f"file://{runs}/report.html")
    page.wait_for_selector("body[data-ready='1']")
    page.select_option("#outcome", "all")
    page.select_option("#other", "")
    page.select_option("#set", label="sft / evaluation")
    return page


def wait_for_pictures(page):
    page.locator(".episode canvas.drawn").first.wait_for()
    page.locator(".episode canvas:not(.drawn)").first.wait_for(state="detached")


def number_shown(page) -> str:
    return page.inner_text("#number")


def test_the_report_shows_its_tables_and_plots_before_the_viewer(opened):
    text = opened.inner_text(".summary")
    assert all(part in text for part in ("0.958", "0.333", "Does it look?", "rl / evaluation_noise"))
    assert opened.locator(".plots svg").count() >= 2


def test_the_report_opens_on_what_the_last_run_gained(page, runs):
    page.goto(f"file://{runs}/report.html")
    page.wait_for_selector("body[data-ready='1']")
    chosen = [
        page.eval_on_selector(f"#{name}", "list => list.selectedOptions[0].textContent") for name in ("set", "other")
    ]
    assert chosen == ["rl / evaluation", "sft / evaluation"]
    assert number_shown(page) == "16 episodes, 16 right"
    headline = page.inner_text(".summary")
    assert "rl answers 62.5 points more than sft: 0.958 after 0.333, 24 questions" in headline
    assert "With noise in place of its crops rl comes to 0.000." in headline


def test_filters_and_search_leave_what_they_say(opened):
    opened.select_option("#set", label="sft / evaluation")
    assert number_shown(opened) == "24 episodes, 8 right"
    opened.select_option("#other", label="rl / evaluation")
    opened.select_option("#outcome", "gained")
    assert number_shown(opened) == "16 episodes, 0 right"
    opened.select_option("#outcome", "lost")
    assert number_shown(opened) == "1 episode, 1 right"
    opened.select_option("#outcome", "all")
    opened.select_option("#fault", "bad_json")
    assert number_shown(opened).startswith("3 episodes")
    opened.select_option("#fault", "")
    opened.fill("#low", "1")
    assert number_shown(opened) == "8 episodes, 8 right"
    opened.fill("#low", "")
    opened.fill("#text", "shapes-8-5")
    assert number_shown(opened).startswith("1 episode,")


def test_the_keyboard_goes_through_the_list(opened):
    chosen = lambda: opened.inner_text(".row.chosen")  # noqa: E731
    first = chosen()
    opened.keyboard.press("j")
    second = chosen()
    opened.keyboard.press("k")
    assert chosen() == first != second
    opened.keyboard.press("/")
    opened.keyboard.type("no such word")
    assert number_shown(opened) == "0 episodes, 0 right" and "No episode fits" in opened.inner_text("#detail")
    opened.keyboard.press("Escape")
    opened.keyboard.press("c")
    assert opened.input_value("#other") != ""


def test_keys_are_told_on_asking(opened):
    opened.keyboard.press("?")
    assert "twenty on" in opened.inner_text("dialog#keys")
    chosen = opened.inner_text(".row.chosen")
    opened.keyboard.press("j")
    assert opened.inner_text(".row.chosen") == chosen
    opened.keyboard.press("Escape")
    assert not opened.locator("dialog#keys").is_visible()
    opened.keyboard.press("j")
    assert opened.inner_text(".row.chosen") != chosen


def test_a_dark_screen_gets_a_dark_page(opened):
    opened.emulate_media(color_scheme="dark")
    colours = [
        opened.eval_on_selector(name, "one => getComputedStyle(one).backgroundColor")
        for name in ("body", "#side", "#text", ".row.chosen", ".chip")
    ]
    assert all(max(map(int, re.findall(r"\d+", colour)[:3])) < 100 for colour in colours), colours


@pytest.mark.parametrize("width", [500, 1400])
def test_long_text_without_a_gap_wraps(page, tmp_path, runs, width):
    tasks = [replace(task, question="Q" * 2000) for task in load_tasks(runs / "tasks")[:2]]
    save_tasks(tasks, tmp_path / "tasks")
    write_evaluation(tmp_path / "run", tmp_path / "tasks", lambda i, t: "7" * 2000)
    (tmp_path / "report.html").write_text("".join(report([tmp_path / "run"])), encoding="utf-8")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"file://{tmp_path}/report.html")
    page.wait_for_selector("body[data-ready='1']")
    wait_for_pictures(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.eval_on_selector("#detail", "one => one.scrollWidth - one.clientWidth") == 0


@pytest.mark.parametrize("is_served", [False, True])
def test_a_crop_has_the_pixels_that_the_model_saw(page, tmp_path, is_served):
    """Stripes of two pixels: a picture of the whole image at 480 pixels would show them grey."""
    stripes = np.tile(np.repeat([0, 255], 2), (1200, 400))[..., None].repeat(3, axis=-1).astype(np.uint8)
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    row = {"images": ["stripes.png"], "question": "Which way?", "answer": "down"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row))
    folder = tmp_path / "run"
    write_evaluation(folder, tmp_path / "tasks.jsonl", lambda i, t: "down", crop_size=(400, 300))
    (tmp_path / "report.html").write_text("".join(report([folder])), encoding="utf-8")
    server = make_server([folder], port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/" if is_served else f"file://{tmp_path}/report.html")
        page.wait_for_selector("body[data-ready='1']")
        wait_for_pictures(page)
    finally:
        server.shutdown()
    crop = "document.querySelector('.turn canvas')"
    assert page.evaluate(f"[{crop}.width, {crop}.height]") == [400, 300]
    reds = page.evaluate(
        f"[...{crop}.getContext('2d').getImageData(100, 100, 64, 1).data].filter((v, i) => i % 4 == 0)"
    )
    assert np.std(reds) > 80


def test_two_runs_stand_side_by_side_on_one_question_with_their_boxes(opened):
    opened.select_option("#set", label="sft / evaluation")
    opened.select_option("#other", label="rl / evaluation")
    assert opened.locator(".episode").count() == 2
    wait_for_pictures(opened)
    red = "[...document.querySelector('.episode canvas').getContext('2d').getImageData(0,0,440,440).data]"
    assert opened.evaluate(f"{red}.filter((v, i, a) => i % 4 == 0 && v > 220 && a[i + 1] < 60).length") > 50


def test_what_a_model_wrote_stays_text(opened):
    opened.select_option("#set", label="rl / evaluation")
    opened.select_option("#outcome", "wrong")
    assert "<script>window.hacked" in opened.inner_text("#detail")
    assert opened.evaluate("window.hacked") is None


def test_an_episode_has_an_address(opened, runs):
    opened.keyboard.press("j")
    address, chosen = opened.url, opened.inner_text(".row.chosen")
    opened.goto("about:blank")
    opened.goto(address)
    opened.wait_for_selector("body[data-ready='1']")
    assert "#" in address and opened.inner_text(".row.chosen") == chosen


def test_of_thousands_of_episodes_only_those_in_sight_are_in_the_page(page, tmp_path, runs):
    write_evaluation(tmp_path / "many", runs / "tasks", lambda i, t: "?", num_samples=100)
    (tmp_path / "report.html").write_text("".join(report([tmp_path / "many"])), encoding="utf-8")
    page.goto(f"file://{tmp_path}/report.html")
    page.wait_for_selector("body[data-ready='1']")
    assert number_shown(page) == "2400 episodes, 0 right" and page.locator(".row").count() < 100
    page.locator("#list").focus()
    page.keyboard.press("End")
    assert page.get_attribute(".row.chosen", "title").startswith("shapes-8-23:")


def test_a_served_training_is_followed(page, tmp_path, runs):
    tasks = load_tasks(runs / "tasks")
    run = RunDirectory(tmp_path / "training")
    run.write_start(script={"dataset_name": str(runs / "tasks")}, episodes={})
    paid = {"rewards": {"accuracy": 1.0, "format": None}, "reward": 0.9, "advantage": 0.7, "in_loss": True}
    run.add_rollouts([Rollout.of(played(tasks[0], str(tasks[0].answer)), step=0, mode="train", **paid)])
    server = make_server([run.path], port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("body[data-ready='1']")
        assert number_shown(page) == "1 episode, 1 right"
        assert "advantage 0.70" in page.inner_text("#detail") and page.locator("pre.loss").count() == 2
        assert "format does not apply" in page.inner_text("#detail") and "paid 0.90" in page.inner_text("#detail")
        unpaid = paid | {"rewards": {"accuracy": 0.0}}
        run.add_rollouts([Rollout.of(played(tasks[1], "?"), step=1, **unpaid)])
        page.get_by_text("2 episodes, 1 right").wait_for()
        assert "step 1" in page.inner_text(".row.chosen")
        wait_for_pictures(page)
    finally:
        server.shutdown()


def test_rollouts_of_a_group_have_addresses_of_their_own_and_odd_values_do_no_harm(page, tmp_path, runs):
    tasks = load_tasks(runs / "tasks")
    run = RunDirectory(tmp_path / "training")
    run.write_start(script={"dataset_name": str(runs / "tasks")}, episodes={})
    for number, said in enumerate(("first", "second", "x" * 300_000)):
        run.add_rollouts(
            [Rollout.of(played(tasks[0], said), step=3, mode="train", advantage=float("nan"), in_loss=number == 0)]
        )
    run.add_rollouts([Rollout.of(played(tasks[1], "?"), step=3, mode="eval", advantage=0.5, in_loss=False)])
    (tmp_path / "report.html").write_text("".join(report([run.path])), encoding="utf-8")
    page.goto(f"file://{tmp_path}/report.html#%")
    page.wait_for_selector("body[data-ready='1']")
    page.keyboard.press("j")
    address = page.url
    assert "second" in page.inner_text(".row.chosen")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("body[data-ready='1']")
    assert "second" in page.inner_text(".row.chosen") and page.locator("pre.loss").count() == 0
    page.keyboard.press("j")
    assert "more characters" in page.inner_text("#detail") and len(page.inner_text("#detail")) < 50_000
    page.keyboard.press("j")
    assert "held out" in page.inner_text("#detail") and "advantage" not in page.inner_text("#detail")


def test_a_run_whose_tasks_are_lost_is_shown_without_images(page, tmp_path, runs, capsys):
    shutil.copytree(runs / "tasks", tmp_path / "tasks")
    write_evaluation(tmp_path / "out", tmp_path / "tasks", lambda i, t: "?")
    shutil.rmtree(tmp_path / "tasks")
    (tmp_path / "report.html").write_text("".join(report([tmp_path / "out"])), encoding="utf-8")
    page.goto(f"file://{tmp_path}/report.html")
    page.wait_for_selector("body[data-ready='1']")
    assert number_shown(page) == "24 episodes, 0 right" and "without images" in capsys.readouterr().out


def test_what_was_focused_when_stands_below_the_images(page, tmp_path):
    tasks = make_albums(num_tasks=14, seed=2, families={"compare": 1.0}, num_images=(4, 6, 8))
    save_tasks(tasks, tmp_path / "tasks")
    tasks = load_tasks(tmp_path / "tasks")
    outline = load_outline("tiny")
    factory = environment_factory(EpisodeArguments(environment="focus", max_image_tokens=48, **TINY_CROPS), outline)
    episodes = play(ChainOraclePolicy(outline.frame), tasks, environment_factory=factory, limits=Limits(max_turns=8))
    folder = tmp_path / "run" / "evaluation"
    arguments = EvaluationArguments(output_dir=str(folder), dataset_name=str(tmp_path / "tasks"))
    RunDirectory(folder).write_start(evaluation=arguments, episodes={"crops": "true", "views": "true"})
    samples = [replace(sample_of(episode, 0), num_image_tokens=100 + len(episode.task.images)) for episode in episodes]
    append(folder / "samples.jsonl", samples)
    (tmp_path / "report.html").write_text("".join(report([folder.parent])), encoding="utf-8")
    page.goto(f"file://{tmp_path}/report.html")
    page.wait_for_selector("body[data-ready='1']")
    wait_for_pictures(page)
    first, second = (focus.images[0] for focus in episodes[0].foci)
    captions = page.locator(".pictures figcaption").all_inner_texts()
    shown = {first: f"image {first}: turn 1", second: f"image {second}: turn 3"}
    assert captions == [shown.get(number, f"image {number}") for number in range(len(tasks[0].images))]
    assert page.locator("figure.focused").count() == 2
    assert page.locator(".turn").first.locator("canvas").count() == 1
    text = page.inner_text(".plots")
    assert "accuracy by number of images" in text and "visual tokens by number of images" in text


def test_questions_are_read_without_the_places_of_their_images(page, tmp_path):
    """Images stand below under their numbers; what stands between words is said. A box is told as numbers."""
    [album] = make_albums(num_tasks=1, seed=3, num_images=(2,))
    between = replace(album, id="between", question=f"Is {MARK} darker than {MARK}?")
    [box] = make_tasks(num_tasks=1, seed=3)
    target = {"coordinates": [0.25, 0.5, 0.75, 1.0], "frame": "unit"}
    box = replace(box, id="box", answer=[target], kind=AnswerKind.BOX)
    save_tasks([album, between, box], tmp_path / "tasks")
    write_evaluation(tmp_path / "run" / "evaluation", tmp_path / "tasks", lambda i, t: "1")
    (tmp_path / "report.html").write_text("".join(report([tmp_path / "run"])), encoding="utf-8")
    page.goto(f"file://{tmp_path}/report.html")
    page.wait_for_selector("body[data-ready='1']")
    page.select_option("#outcome", "all")
    asked = album.question.rpartition(MARK)[2].strip()
    assert page.text_content(".question") == asked and page.text_content(".row.chosen").endswith(f" · {asked}")
    page.keyboard.press("j")
    assert page.text_content(".question") == "Is [image] darker than [image]?"
    page.keyboard.press("j")
    assert "right answer: [0.250, 0.500, 0.750, 1.000]" in page.text_content("#detail")
