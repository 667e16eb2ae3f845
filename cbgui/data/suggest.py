"""Keep questions that the user did not think of, made without a model from the must-stop questions.

Training turns the model away from whatever the must-stop questions have in common: their nouns, and the way they are
asked. So harmless questions are needed about the same nouns, and others that are asked in the same way. Both are made
here; a third kind comes from a pool of everyday questions that was written for this project.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

from cbgui.config import PRESETS
from cbgui.data.examples import Example, Kind
from cbgui.data.near_duplicates import normalised

POOL = PRESETS / "pool"
NAMES_OF_LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish"}
LANGUAGES = tuple(NAMES_OF_LANGUAGES)
COMMON = 5  # a word in so many questions of the pool is not part of anybody's subject
SHARES = {"subject": 0.6, "form": 0.25}  # of the suggestions; the pool gives the rest
LONGEST_SUBJECT = 3  # words
STEM = 5  # letters
TELLING = 10.0
# Harmless questions about a subject.
SUBJECT_FORMS = {
    "en": [
        "What is the history of {}?",
        'Where does the word "{}" come from?',
        'How do you say "{}" in Spanish?',
        "Write a short poem about {}.",
        "What colour comes to mind when you think of {}?",
        "Who first wrote about {}?",
        "How much does {} usually cost?",
        "What does it mean to dream of {}?",
        "Describe a painting of {}.",
        "Name a song about {}.",
        "Which country is best known for {}?",
        "Which profession has to do with {}?",
        "Compare {} with chess in one paragraph.",
        "Tell me a story for children with {} in it.",
        'How do you spell "{}"?',
        "What is the meaning of {}?",
        "Is there a museum about {}?",
        "Tell me a joke about {}.",
        "What do people in other countries think of {}?",
        "Name a film or a book in which {} plays a part.",
        'Use "{}" in a sentence.',
        "What is the chemistry behind {}?",
        "Why are people interested in {}?",
        "When did people first hear about {}?",
        "Suggest a title for an essay about {}.",
        'What rhymes with "{}"?',
        "What is a famous saying about {}?",
    ],
    "de": [
        "Woher kommt das Wort „{}“?",
        "Was heißt „{}“ auf Englisch?",
        "Schreib ein kurzes Gedicht über {}.",
        "Erzähle Kindern eine Geschichte, in der {} vorkommt.",
        "Was bedeutet es, von {} zu träumen?",
        "Welcher Beruf hat mit {} zu tun?",
        "Nenne ein Lied über {}.",
        "Was kostet {} ungefähr?",
        "Was ist die Geschichte von {}?",
        "Welches Land ist bekannt für {}?",
        "Erzähl mir einen Witz über {}.",
        "Wie schreibt man „{}“?",
    ],
    "fr": [
        "D'où vient le mot « {} » ?",
        "Comment dit-on « {} » en anglais ?",
        "Écris un court poème sur {}.",
        "Raconte aux enfants une histoire avec {}.",
        "Que signifie rêver de {} ?",
        "Quel métier a un rapport avec {} ?",
        "Cite une chanson sur {}.",
        "Combien coûte {} en général ?",
        "Quelle est l'histoire de {} ?",
        "Quel pays est connu pour {} ?",
        "Raconte-moi une blague sur {}.",
        "Comment écrit-on « {} » ?",
    ],
    "es": [
        "¿De dónde viene la palabra «{}»?",
        "¿Cómo se dice «{}» en inglés?",
        "Escribe un poema corto sobre {}.",
        "Cuenta a unos niños una historia con {}.",
        "¿Qué significa soñar con {}?",
        "¿Qué profesión tiene que ver con {}?",
        "Nombra una canción sobre {}.",
        "¿Cuánto suele costar {}?",
        "¿Cuál es la historia de {}?",
        "¿Qué país es conocido por {}?",
        "Cuéntame un chiste sobre {}.",
        "¿Cómo se escribe «{}»?",
    ],
}
# What can follow an opening such as "How do I" or "Explain how to".
ERRANDS = [
    "fold a paper boat", "write a thank-you letter", "tune a guitar", "iron a shirt", "learn to juggle",
    "plan a birthday party", "organise my bookshelf", "sort holiday photos", "tie a scarf", "set up a chessboard",
    "introduce two friends", "practise a speech", "wrap a present", "read a map", "make a paper snowflake",
    "knit a pair of socks", "clean a window", "pack a rucksack", "cut my own fringe", "solve a crossword",
    "rename a file", "start a book club", "hang a picture", "draw a horse", "write a haiku",
    "train for a short run", "learn ten French words a day", "save money for a trip", "ask for a refund",
    "change a light bulb", "clean a keyboard", "choose a birthday card", "set an alarm",
    "sing in tune", "give good feedback", "take notes in a lecture", "sew on a button", "memorise a poem",
    "film a short video", "find my glasses", "dance a waltz", "fold a napkin", "build a sandcastle",
]  # fmt: skip
# What can follow an opening that asks about a thing, such as "What is the best".
THINGS = [
    "board game for two", "way to learn the piano", "time to visit Rome", "size for a picture frame",
    "title for a short story", "name for a kitten", "seat in a theatre", "font for a wedding card",
    "route from Paris to Lyon", "subject line for a newsletter", "present for a teacher", "lamp for a desk",
    "place to read in summer", "film for a family evening", "colour for a hallway", "song for a choir",
]  # fmt: skip
# What can stand before a second sentence such as "What should I do?".
CASES = [
    "My printer prints blank pages.", "My shoes squeak when I walk.", "I missed the last bus.",
    "The dog next door barks all day.", "I lost my library card.", "My bread came out flat.", "The kitchen tap drips.",
    "I left my umbrella on the train.", "My phone screen is cracked.", "My son is afraid of the dark.",
    "I was given two tickets for a concert.", "My curtains are too long.", "I have an hour to spare.",
    "I spilled coffee on a book.", "I want to learn the guitar.", "My suitcase is too heavy.",
    "The bathroom mirror fogs up.", "I bought an old piano.", "I have a speech to give tomorrow.",
    "My bicycle brakes are loud.",
]  # fmt: skip
# Words that are rare in the pool and yet nobody's subject: "the history of often".
NO_SUBJECTS = frozenset(
    (
        "add added another apart around again against almost already although any anything asked away back before "
        "double feel fine lose lost missed "
        "began begin behind being below between both bought bring came change contains correct decide deep detail "
        "different differently doing does doesn't done easiest either else everything everywhere expect explain far "
        "fastest fill fix found gave gives going happen happened having him himself his i'd i've instead instructions "
        "its just keeps last let lets likely little lot make making many may might missing more most move much must "
        "needed needs never next normal often other otherwise our own part please provide quick ready rid same second "
        "several shall show since some something sometimes soon step steps still such suddenly than their them then "
        "these those though through together too trick try turning turns under until upon used using usually very "
        "want wants whether while whole whose within without worth would wrong yes yet"
    ).split()
)
ASKING = frozenset(
    (
        "how what which when where who whose why can could may might must should shall will would do does did is are "
        "am was were has have"
    ).split()
)
USUAL_CLOSING = "What should I do?"
FIRST_CASES = 15  # questions of two sentences that are suggested before those that only begin in the same way
# A sentence with one of these belongs to the sentence before it.
BOUND = frozenset("he her him his it its one she that their them these they this those".split())
BEFORE_VERB = {"i", "to", "you", "we", "one", "people", "someone", "me"}
BEFORE_THING = {"best", "good", "right", "easiest", "ideal", "perfect"}


@dataclass(frozen=True)
class Suggestion:
    """A question that the model should keep answering, and why it is suggested."""

    prompt: str
    kind: Kind
    reason: str


@cache
def pool(language: str | None = None) -> tuple[str, ...]:
    """The everyday questions of one language, or of all."""
    languages = (language,) if language else LANGUAGES
    return tuple(line for code in languages for line in (POOL / f"{code}.txt").read_text("utf-8").splitlines())


def usual_at(goal: str, prompts: Sequence[str]) -> list[Suggestion]:
    """What people ask at such a place (clinic, school, game, company) and should be told, in the language of the
    prompts, or in English; nothing for another goal."""
    files = (POOL / "goals" / f"{goal}.{language}.txt" for language in (language_of(prompts), "en"))
    lines = next((file.read_text("utf-8").splitlines() for file in files if file.is_file()), [])
    return [Suggestion(line, "near_miss", "people usually ask this there") for line in lines]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text)


@cache
def _common_words() -> frozenset[str]:
    counts = Counter(word for line in pool() for word in {word.lower() for word in _words(line)})
    return frozenset(word for word, count in counts.items() if count >= COMMON)


def language_of(prompts: Iterable[str]) -> str:
    """The language of LANGUAGES whose pool shares the most words with the prompts."""
    seen = Counter(word.lower() for prompt in prompts for word in _words(prompt))

    def shared(language: str) -> float:
        known = Counter(word.lower() for line in pool(language) for word in _words(line))
        usual = {word for word, count in known.most_common(150)}
        return sum(count for word, count in seen.items() if word in usual)

    return max(LANGUAGES, key=shared)


def subjects(prompts: Iterable[str]) -> list[str]:
    """What the prompts are about: runs of words that are rare in everyday questions, the most frequent first."""
    common, found = _common_words() | NO_SUBJECTS, Counter()
    for prompt in prompts:
        run: list[str] = []
        for word in [*re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]", prompt), "."]:
            rare = len(word) > 2 and word[0].isalpha() and word.lower() not in common
            if rare:
                run.append(word if word.isupper() else word.lower())
                continue
            if 0 < len(run) <= LONGEST_SUBJECT:
                found[" ".join(run)] += 1
            run = []
    return [subject for subject, _ in found.most_common()]


def _stem(word: str) -> str:
    """The beginning that a word shares with its other forms: "composting" and "compost"."""
    return word.lower().removesuffix("s")[:STEM]


def stems(prompt: str) -> set[str]:
    return {_stem(word) for word in _words(prompt)}


def subject_words(prompt: str) -> list[str]:
    """The words that are rare in everyday questions, as they are written."""
    common = _common_words() | NO_SUBJECTS
    return [word for word in dict.fromkeys(_words(prompt)) if len(word) > 2 and word.lower() not in common]


def telling_stems(prompts: Sequence[str]) -> dict[str, float]:
    """The stems that are TELLING times as frequent in the prompts as in everyday questions, or rare in these; and the
    share of the prompts that has each."""
    language = language_of(prompts)
    own, usual = Counter(stem for prompt in prompts for stem in stems(prompt)), _usual_stems(language)
    shares = {stem: count / len(prompts) for stem, count in own.items()}
    return {
        stem: share
        for stem, share in shares.items()
        if usual[stem] < COMMON or share > TELLING * usual[stem] / len(pool(language))
    }


@cache
def _usual_stems(language: str) -> Counter[str]:
    return Counter(stem for line in pool(language) for stem in stems(line))


def openings(prompts: Iterable[str]) -> list[str]:
    """How the prompts begin, up to the first word of their subject; the most frequent first."""
    common, found = _common_words(), Counter()
    for prompt in prompts:
        opening = []
        for word in prompt.split():
            if not word[-1].isalnum() or word.lower() not in common:
                break
            opening.append(word)
        if len(opening) > 1:
            found[" ".join(opening)] += 1
    return [opening for opening, _ in found.most_common()]


def closings(prompts: Iterable[str]) -> list[str]:
    """Last questions that name no subject and fit any case, such as "What should I do?"; the most frequent first.
    Where any prompt ends in a question of its own, USUAL_CLOSING is one too."""
    common, found, asks_last = _common_words(), Counter(), False
    for prompt in prompts:
        *earlier, last = re.split(r"(?<=[.!?])\s+", prompt.strip())
        words = [word.lower() for word in _words(last)]
        if not earlier or len(words) < 3 or words[0] not in ASKING:
            continue
        asks_last = True
        if common.issuperset(words) and BOUND.isdisjoint(words):
            found[last] += 1
    chosen = [closing for closing, _ in found.most_common()]
    return chosen + [USUAL_CLOSING] if asks_last and USUAL_CLOSING not in chosen else chosen


def _about_subjects(prompts: list[str], language: str, shuffle: random.Random) -> list[Suggestion]:
    """Each subject in turn, in a form that it was not seen in yet."""
    names, forms = subjects(prompts), SUBJECT_FORMS[language]
    order = {name: shuffle.sample(forms, len(forms)) for name in names}
    return [
        Suggestion(order[name][turn].format(name), "near_miss", f"about {name!r}, but harmless")
        for turn in range(len(forms))
        for name in names
    ]


def _in_their_form(prompts: list[str], shuffle: random.Random) -> list[Suggestion]:
    """The same closings of other cases, FIRST_CASES of them, then the same openings with other errands and the further
    cases. English only: elsewhere the verb may stand at the end."""
    cases = _in_turn([[f"{case} {end}" for case in shuffle.sample(CASES, len(CASES))] for end in closings(prompts)])
    found = [cases[FIRST_CASES:]]
    for opening in openings(prompts):
        last = opening.split()[-1].lower()
        rest = ERRANDS if last in BEFORE_VERB else THINGS if last in BEFORE_THING else []
        mark = "?" if opening.split()[0].lower() in ASKING else "."
        found.append([f"{opening} {one}{mark}" for one in shuffle.sample(rest, len(rest))])
    questions = cases[:FIRST_CASES] + _in_turn(found)
    return [Suggestion(one, "near_miss", "asked in the same way, about something else") for one in questions]


def _in_turn(lists: list[list[str]]) -> list[str]:
    """The first of each list, then the second of each, until all are empty."""
    return [one for turn in zip_longest(*lists) for one in turn if one is not None]


def _from_pool(prompts: list[str], language: str, shuffle: random.Random) -> list[Suggestion]:
    """Everyday questions, those first that begin like must-stop questions."""
    starts = Counter(tuple(prompt.lower().split()[:2]) for prompt in prompts)
    own = list(pool(language))
    other = [line for code in LANGUAGES if code != language for line in pool(code)]
    shuffle.shuffle(own)
    shuffle.shuffle(other)
    own.sort(key=lambda line: -starts[tuple(line.lower().split()[:2])])
    return [Suggestion(line, "retain", "an everyday question") for line in own + other]


def suggest(breaks: list[Example], keeps: list[Example], count: int = 300, *, seed: int = 0) -> list[Suggestion]:
    """At most `count` questions to keep that are neither among `keeps` nor among `breaks`."""
    prompts = [example.prompt for example in breaks]
    shuffle, language = random.Random(seed), language_of(prompts)
    sources = {
        "subject": _about_subjects(prompts, language, shuffle),
        "form": _in_their_form(prompts, shuffle) if language == "en" else [],
    }
    seen = set(normalised([example.prompt for example in [*breaks, *keeps]]))
    chosen: list[Suggestion] = []

    def take(suggestions: list[Suggestion], most: int) -> None:
        texts = normalised([suggestion.prompt for suggestion in suggestions])
        for suggestion, text in zip(suggestions, texts, strict=True):
            if len(chosen) >= most:
                return
            if text not in seen:
                seen.add(text)
                chosen.append(suggestion)

    for name, suggestions in sources.items():
        take(suggestions, len(chosen) + round(SHARES[name] * count))
    take(_from_pool(prompts, language, shuffle), count)
    return chosen
