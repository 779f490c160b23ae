"""Thirty small texts of many kinds, made up: what newcomers bring, and what breaks models.

Templates, poems, code, chats, tables, logs, DNA, ruled lines, periods, emoji, right-to-left; 2 kB
to 200 kB, Chinese and English. The same seed gives the same texts on every machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from minibrillm.text import MarkovChain, bundled, join_documents

Words = Mapping[str, Sequence[str]]
Maker = Callable[[np.random.Generator], str]

_FIELD = re.compile(r"\{(\w+)\}")


def fill(template: str, words: Words, rng: np.random.Generator) -> str:
    """A sentence from a template: each ``{name}`` becomes a word drawn from the list of that name.

    Words may hold names themselves. ``{d}`` is a digit.
    """
    while _FIELD.search(template):
        template = _FIELD.sub(lambda m: _draw(m[1], words, rng), template)
    return template


def _draw(name: str, words: Words, rng: np.random.Generator) -> str:
    choices = "0123456789" if name == "d" else words[name]
    return choices[int(rng.integers(len(choices)))]


def _lines(template: str, words: Words, n: int) -> Maker:
    """A text of n lines, each from the template."""
    return lambda rng: "".join(f"{fill(template, words, rng)}\n" for _ in range(n))


_ZH: Words = {
    "who": ["小兔", "青蛙", "母鸡", "老鼠", "老爷爷", "小明", "妹妹", "奶奶", "邮递员", "木匠"],
    "when": ["早上", "中午", "傍晚", "昨天", "下雪的时候", "放学以后"],
    "where": ["河边", "山上", "菜园里", "桥下", "集市上", "窗台上"],
    "did": ["找到了", "丢了", "画了", "吃了", "藏起了", "修好了", "借走了"],
    "what": ["一个盘子", "月亮", "她的帽子", "一条小船", "那碗汤", "一把旧伞", "三颗豆子"],
    "then": ["大家都笑了", "谁也没说话", "天就黑了", "雨停了", "他很高兴"],
    "two": ["春风", "明月", "青山", "流水", "白云", "孤舟", "落叶", "寒霜", "远钟", "归雁"],
    "one": list("照过入对伴随送满映绕"),
    "end": ["江楼", "故城", "旧园", "空林", "客衣", "柴门", "长桥", "古渡"],
    "food": ["土豆", "鸡蛋", "白菜", "豆腐", "番茄", "面条", "羊肉", "香菇"],
    "cook": ["切块", "洗净", "焯水", "打散", "切丝", "泡软"],
    "heat": ["小火", "中火", "大火"],
    "thing": ["书本", "铅笔", "茶壶", "围巾", "灯笼", "剪刀", "风筝", "算盘", "木梳", "竹篮"],
    "how": ["圆的", "长的", "红色的", "很轻的", "木头做的", "常用的"],
    "use": ["写字", "喝茶", "照明", "保暖", "裁纸", "装菜", "计数"],
    "ask": ["你在吗", "晚上吃什么", "作业写完了吗", "明天几点见", "谁有雨伞", "车票买了没"],
    "say": ["在的", "好啊", "还没有", "七点吧", "我有一把", "哈哈哈", "等一下", "不知道呢"],
    "face": ["", "", "", "😀", "😂", "👍", "🙏"],
    "name": ["王芳", "李雷", "张伟", "陈静", "刘洋"],
    "saying": [
        "守株待兔",
        "画蛇添足",
        "亡羊补牢",
        "井底之蛙",
        "对牛弹琴",
        "水滴石穿",
        "一心一意",
        "三言两语",
    ],
}
_EN: Words = {
    "who": ["Little Rabbit", "the frog", "Grandmother", "the old man", "a mouse", "my sister"],
    "did": ["found", "lost", "painted", "ate", "hid", "mended", "sold"],
    "what": ["a plate", "the moon", "her hat", "a small boat", "the soup", "three beans"],
    "where": ["by the river", "under the bridge", "in the garden", "at the market", "upstairs"],
    "adjective": ["pale", "quiet", "golden", "broken", "distant", "gentle", "hollow", "silver"],
    "noun": ["moon", "river", "garden", "shadow", "winter", "bell", "lantern", "sparrow"],
    "verb": ["sleeps", "drifts", "returns", "whispers", "waits", "burns"],
    "food": ["flour", "butter", "sugar", "salt", "milk", "onion", "rice", "beans"],
    "unit": ["cups of", "spoons of", "grams of"],
    "cook": ["Stir", "Boil", "Bake", "Chop", "Cool", "Mix"],
    "name": ["alice", "bob", "carol", "dave"],
    "chat": [
        "are you there?",
        "lol",
        "see you at {d}",
        "no idea",
        "who has the key?",
        "ok",
        "on my way",
    ],
    "thing": ["cat", "lamp", "spoon", "kettle", "ladder", "pillow", "hammer", "basket"],
    "kind": ["a tool", "a vessel", "an animal", "a piece of furniture"],
    "use": ["reach high places", "hold water", "give light", "rest the head"],
    "level": ["INFO", "INFO", "INFO", "WARN", "ERROR"],
    "event": [
        "connection from 10.0.{d}.{d}{d}",
        "disk {d}{d}% full",
        "request took {d}{d}{d} ms",
        "user {name} logged in",
    ],
    "function": ["add", "scale", "mean", "total", "clip", "shift"],
    "variable": ["x", "y", "value", "count", "rate", "width"],
    "operator": list("+-*/"),
    "tag": ["p", "li", "b", "em"],
    "month": ["Jan", "Feb", "Mar", "Apr", "May"],
}
_RTL: Words = {
    "who": ["הילד", "האיש", "החתול", "המורה", "הציפור"],
    "did": ["מצא", "איבד", "צייר", "אכל", "ראה"],
    "what": ["את הכובע", "את הירח", "ספר ישן", "תפוח אחד"],
    "where": ["ליד הנהר", "בגן", "על ההר", "בבית"],
}
_ARABIC: Words = {
    "who": ["الولد", "القط", "المعلم", "الطائر", "الرجل"],
    "did": ["وجد", "رسم", "أكل", "رأى", "نسي"],
    "what": ["القبعة", "القمر", "كتابا قديما", "تفاحة"],
}
_EMOJI: Words = {
    "a": list("😀😂🙂😎🤔😴"),
    "b": list("🍎🍌🍇🍉🍓"),
    "c": list("🚀🚗🚲🚂"),
}
_CODE = (
    "def {function}_{variable}({variable}, {variable}={d}):\n"
    "    result = {variable} {operator} {d}\n"
    "    if result > {d}:\n"
    "        return {function}({variable})\n"
    "    for i in range({d}{d}):\n"
    "        result = result {operator} {variable}\n"
    "    return result\n\n"
)
_ABC = {
    "bar": ["{n}2{n}2 {n}{n}{n}2", "{n}4 {n}2{n}2", "{n}{n}{n}{n} {n}4"],
    "n": list("CDEFGABcde"),
}


def _ruled(rng: np.random.Generator) -> str:
    """Sentences, and now and then a line across the page."""
    pages = []
    for _ in range(20):
        lines = [fill("{who} {did} {what} {where}.\n", _EN, rng) for _ in range(25)]
        pages += [*lines, "~" * 96, "\n"]
    return "".join(pages)


def _walk(rng: np.random.Generator) -> str:
    """A table of numbers: three columns that wander, tabs between."""
    steps = rng.normal(size=(900, 3)).cumsum(axis=0)
    return "".join("\t".join(f"{x:.2f}" for x in row) + "\n" for row in steps)


def _dna(rng: np.random.Generator) -> str:
    """What follows depends on the last three letters, a little."""
    return MarkovChain("ACGT", rng.dirichlet(np.full(4, 2.0), size=(4, 4, 4))).sample(40_000, rng)


def _records(rng: np.random.Generator) -> str:
    return "".join(
        json.dumps(
            {
                "id": k,
                "name": _draw("name", _EN, rng),
                "price": round(float(rng.gamma(2, 10)), 2),
                "tags": [_draw("noun", _EN, rng) for _ in range(2)],
            }
        )
        + "\n"
        for k in range(400)
    )


def _morse(rng: np.random.Generator) -> str:
    code = dict(
        zip("etianmsur", [".", "-", "..", ".-", "-.", "--", "...", "..-", ".-."], strict=True)
    )
    letters = rng.choice(
        list(code), p=[0.2, 0.15, 0.13, 0.13, 0.12, 0.07, 0.1, 0.05, 0.05], size=6000
    )
    return " ".join(code[x] for x in letters)


def _steps(rng: np.random.Generator) -> str:
    """Counting, a number a line."""
    return "".join(f"{k}\n" for k in range(1, 4001))


def _bundled(language: str, n_characters: int) -> Maker:
    return lambda rng: join_documents(bundled("train", language))[:n_characters]


def _both(rng: np.random.Generator) -> str:
    """Chinese and English in turn."""
    zh, en = ("{when}，{who}在{where}{did}{what}。", "{who} {did} {what} {where}.")
    return "".join(f"{fill(zh, _ZH, rng)} {fill(en, _EN, rng)}\n" for _ in range(500))


MAKERS: dict[str, Maker] = {
    "templates, zh": _lines("{when}，{who}在{where}{did}{what}，{then}。", _ZH, 700),
    "templates, en": _lines("{who} {did} {what} {where}.", _EN, 700),
    "templates, zh, 2 kB": _lines("{who}在{where}{did}{what}。", _ZH, 50),
    "templates, en, 2 kB": _lines("{who} {did} {what} {where}.", _EN, 50),
    "both languages": _both,
    "poems, zh": _lines("{two}{one}{end}，{two}{one}{end}。", _ZH, 800),
    "poems, en": _lines(
        "The {adjective} {noun} {verb},\na {noun} {verb} by the {noun}.\n", _EN, 500
    ),
    "pieces, zh, 60 kB": _bundled("zh", 20_000),
    "pieces, zh, 5 kB": _bundled("zh", 1_700),
    "pieces, en, 200 kB": _bundled("en", 200_000),
    "pieces, en, 20 kB": _bundled("en", 20_000),
    "chat, zh": _lines("{name}：{ask}{face}\n{name}：{say}{face}", _ZH, 500),
    "chat, en": _lines("[1{d}:{d}{d}] {name}: {chat}", _EN, 900),
    "recipes, zh": _lines("{food}{d}{d}克{cook}，{heat}煮{d}分钟，加{food}和{food}。", _ZH, 500),
    "recipes, en": _lines("{cook} {d} {unit} {food} with {d} {unit} {food}.", _EN, 700),
    "dictionary, zh": _lines("【{thing}】{how}东西，可以用来{use}。例：{saying}。", _ZH, 500),
    "dictionary, en": _lines("{thing}, n. {kind} used to {use}; see {thing}.", _EN, 600),
    "idioms, 2 kB": _lines("{saying}", _ZH, 150),
    "Python": lambda rng: "".join(fill(_CODE, _EN, rng) for _ in range(200)),
    "markup": _lines("<{tag} class='{noun}'>{who} {did} {what}</{tag}>", _EN, 600),
    "JSON lines": _records,
    "log": _lines("{month} {d}{d} 1{d}:{d}{d}:{d}{d} {level} {event}", _EN, 900),
    "table of numbers": _walk,
    "counting": _steps,
    "DNA": _dna,
    "music": _lines("|{bar}|{bar}|{bar}|{bar}|", _ABC, 400),
    "Morse": _morse,
    "ruled lines": _ruled,
    "emoji": _lines("{a}{a}{b}{c} {b}{b}{a}", _EMOJI, 600),
    "Hebrew": _lines("{who} {did} {what} {where}.", _RTL, 600),
    "Arabic, 10 kB": _lines("{who} {did} {what}.", _ARABIC, 300),
    "xyz × 1500": lambda rng: "xyz" * 1500,
    "ab × 2000": lambda rng: "ab" * 2000,
    "one line × 400": lambda rng: "The same line, again and again.\n" * 400,
}


def small_text(name: str) -> str:
    """One of the texts, by its name in `MAKERS`."""
    return MAKERS[name](np.random.default_rng([7, list(MAKERS).index(name)]))
