"""Files that are not in Unicode, as spreadsheets on Windows and a Mac write them: read right, and said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.datasets.files import read, source, write
from training.datasets.detect import detect

TEXTS = {
    "English prices": "Price?;It’s £0.99 – “cheap”, isn’t it…",
    "English": "When do you open?;We’re open 9–5 – every day… “really”.",
    "French": "Où est ma commande ?;Elle est arrivée à l’adresse indiquée, près du château.",
    "Portuguese": "Onde estão as encomendas?;A função não está disponível nesta região.",
    "Spanish": "¿Dónde está mi pedido?;Llegará mañana por la mañana, señor.",
    "Italian": "Perché l'ordine non è ancora arrivato?;La città è bella, però c'è già troppa gente.",
    "German": "Wann öffnen Sie?;Täglich außer Sonntag, für Geschäfte früher.",
    "Dutch": "Hoe laat bent u geopend?;Geïnteresseerd? Bel ons één dag eerder.",
    "Danish": "Hvornår har I åbent?;Hver dag fra ni til seks, også på søndage.",
    "Swedish": "Var är min beställning?;Den borde ha kommit på måndag.",
    "Finnish": "Milloin olette auki?;Joka päivä yhdeksästä kuuteen, myös pyhinä.",
    "Polish": "Kiedy jesteście otwarci?;Codziennie od dziewiątej, proszę zwrócić towar.",
    "Czech": "Kdy máte otevřeno?;Každý den od devíti do šesti, zboží do třiceti dnů.",
    "Hungarian": "Mikor vannak nyitva?;Minden nap kilenctől hatig, harminc napon belül.",
    "Croatian": "Kada ste otvoreni?;Svaki dan od devet do šest, narudžbu možete vratiti već sutra.",
    "Turkish": "Siparişim ne zaman gelecek?;İki gün içinde gönderilir, teşekkürler.",
    "Lithuanian": "Kada jūs dirbate?;Kiekvieną dieną nuo devynių iki šešių, ačiū už užsakymą.",
    "Russian": "Когда вы работаете?;Каждый день с девяти до шести.",
    "Ukrainian": "Коли ви працюєте?;Щодня з дев'ятої до шостої години.",
    "Greek": "Πότε είστε ανοιχτά;Κάθε μέρα από εννέα έως έξι.",
    "Hebrew": "מתי אתם פתוחים?;כל יום מתשע עד שש.",
    "Arabic": "متى تفتحون؟;كل يوم من التاسعة حتى السادسة.",
    "Thai": "ร้านเปิดกี่โมง;ทุกวันตั้งแต่เก้าโมงถึงหกโมงเย็น",
    "Chinese": "你们的营业时间是什么时候？;我们每天上午九点到下午六点营业。",
    "Taiwanese": "如何退貨？;請在三十天內聯繫客服，訂單兩天內發貨。",
    "Japanese": "営業時間はいつですか？;毎日九時から六時までです。",
    "Korean": "영업시간은 언제입니까?;매일 오전 9시부터 오후 6시까지입니다.",
}
_WESTERN = ("French", "Portuguese", "Spanish", "Italian", "German", "Danish", "Swedish")
WRITTEN = {
    "cp1252": ("English prices", "English", "Dutch", "Finnish", *_WESTERN),
    "cp1250": ("Polish", "Czech", "Hungarian", "Croatian"),
    "iso8859-2": ("Polish", "Czech"),
    "cp1251": ("Russian", "Ukrainian"),
    "koi8-r": ("Russian",),
    "cp1253": ("Greek",),
    "cp1254": ("Turkish",),
    "cp1255": ("Hebrew",),
    "cp1256": ("Arabic",),
    "cp1257": ("Lithuanian",),
    "cp874": ("Thai",),
    "gb18030": ("Chinese",),
    "big5": ("Taiwanese",),
    "shift_jis": ("Japanese",),
    "euc_jp": ("Japanese",),
    "euc_kr": ("Korean",),
    "mac-roman": ("English", *_WESTERN),
    "cp850": tuple(name for name in _WESTERN if name != "French"),  # which has no ’
}


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize(
    ("encoding", "language"), [(encoding, each) for encoding, some in WRITTEN.items() for each in some]
)
def test_a_table_in_a_code_page_is_read_as_it_was_written(
    tmp_path: Path, encoding: str, language: str, rows: int
) -> None:
    question, answer = TEXTS[language].split(";")

    detected = detect(
        write(tmp_path, ("question;answer\r\n" + f"{question};{answer}\r\n" * rows).encode(encoding)),
        "faq.csv",
    )

    assert detected.rows[0] == {"question": question, "answer": answer}
    assert detected.notices[0].startswith("It is not in Unicode, and is read as")


@pytest.mark.parametrize(
    ("encoding", "labels"),
    [
        ("cp1251", ("жалоба", "вопрос")),
        ("cp1250", ("skarga", "zapytanie o wysyłkę, którą się śledzi")),
        ("cp1253", ("παράπονο", "ερώτηση")),
        ("gb18030", ("投诉", "问题")),
        ("cp932", ("苦情", "質問")),
    ],
)
def test_labels_in_another_language_than_the_texts_are_read_as_they_were_written(
    tmp_path: Path, encoding: str, labels: tuple[str, str]
) -> None:
    rows = [
        f'My order number {number} has not arrived yet,"{labels[number % 2]}"\r\n' for number in range(20)
    ]

    detected = detect(write(tmp_path, ("text,label\r\n" + "".join(rows)).encode(encoding)), "a.csv")

    assert [row["label"] for row in detected.rows[:2]] == [*labels]


def test_an_english_text_with_a_foreign_word_is_read_with_all_its_lines(tmp_path: Path) -> None:
    plain = "The shop opens at nine and closes at six. It stays closed on Sundays.\n\n"

    detected = detect(
        write(tmp_path, (plain * 40 + "Our café – “naïve” – costs €5.\n").encode("cp1252")), "a.txt"
    )

    assert detected.rows[0]["text"].startswith("The shop")
    assert "“naïve” – costs €5" in detected.notices[0]


def test_a_file_that_ends_in_the_midst_of_a_line_is_not_taken_for_unicode(tmp_path: Path) -> None:
    detected = detect(write(tmp_path, "question;answer\r\nInici?;Inici de sessió".encode("cp1252")), "a.csv")

    assert detected.rows[0]["answer"] == "Inici de sessió"


@pytest.mark.parametrize(
    ("says", "encoding", "text"),
    [
        ('<meta charset="windows-1250">', "cp1250", "Çmimi është i mirë"),
        ("<meta http-equiv=Content-Type content='text/html; charset=KOI8-R'>", "koi8-r", "Да"),
        ('<?xml version="1.0" encoding="big5"?>', "big5hkscs", "退貨"),
    ],
)
def test_a_web_page_is_in_the_code_page_that_it_says(
    tmp_path: Path, says: str, encoding: str, text: str
) -> None:
    page = f"{says}<html><body><p>{text}</p></body></html>"
    page = page if says.startswith("<?") else f"<!doctype html>{page}"

    detected = detect(write(tmp_path, page.encode(encoding)), "a.html")

    assert (detected.reading and detected.reading.encoding, detected.rows[0]["text"]) == (encoding, text)


def test_the_report_names_the_code_page_and_shows_what_it_makes_of_the_file(tmp_path: Path) -> None:
    legacy = f"question;answer\n{TEXTS['French']}\n".encode("cp1252")

    done = read(
        tmp_path, source(tmp_path, legacy, "fr.csv"), source(tmp_path, legacy.decode("cp1252"), "fr8.csv")
    )

    assert [(p.code, p.severity, p.file, p.line) for p in done.problems] == [
        ("legacy_encoding", "notice", "fr.csv", 0)
    ]
    assert done.problems[0].excerpt.startswith("Où est ma commande")
    assert "cp1252" in done.problems[0].reason
