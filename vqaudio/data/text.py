"""Text normalisation of transcripts for speech recognition and forced alignment."""

from __future__ import annotations

import re
import unicodedata

SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
LARGE = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation except apostrophes inside words; integers are spelled out in English.

    1984 becomes "one thousand nine hundred eighty four", also where it is a year.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", plain)
    plain = re.sub(r"\d+", lambda found: f" {spelled(int(found[0]))} ", plain)
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain)


def spelled(number: int) -> str:
    """English words of an integer >= 0; from 10^12 on, digit by digit."""
    if number >= 10**12:
        return " ".join(SMALL[int(digit)] for digit in str(number))
    for unit, name in LARGE:
        if number >= unit:
            rest = f" {spelled(number % unit)}" if number % unit else ""
            return f"{spelled(number // unit)} {name}{rest}"
    if number < len(SMALL):
        return SMALL[number]
    return TENS[number // 10 - 2] + (f" {SMALL[number % 10]}" if number % 10 else "")
