import io
import json

import pytest

from medmt5.corpus import clinicaltrials
from medmt5.corpus.document import Dropped
from medmt5.errors import InputError

STUDY = {
    "protocolSection": {
        "identificationModule": {"nctId": "NCT1", "briefTitle": "Title", "officialTitle": "Title"},
        "descriptionModule": {"briefSummary": "Summary.", "detailedDescription": 7},
        "eligibilityModule": {"eligibilityCriteria": "Inclusion:\n\n* adults"},
    }
}


def read(content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return list(clinicaltrials.read(io.BytesIO(data), "a.json", "en"))


@pytest.mark.parametrize("content", [{"studies": [STUDY]}, [STUDY], STUDY], ids=["page", "list", "study"])
def test_title_summary_and_criteria_are_the_text_each_once(content):
    (study,) = read(content)
    assert (study.id, study.text) == ("NCT1", "Title\n\nSummary.\n\nInclusion:\n\n* adults")


def test_a_study_without_text_is_counted():
    assert read([{"protocolSection": {"identificationModule": {"nctId": "NCT1"}}}]) == [Dropped("no_text")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"studies":\n [1,}', r"a\.json:2: not JSON"),
        (b"\xff\xfe{", r"a\.json.*not JSON"),
        (b"[" * 200_000, r"a\.json.*not JSON"),
        ({"other": 1}, "every study must hold a protocolSection"),
        ("text", "every study must hold a protocolSection"),
    ],
    ids=["broken", "not-utf8", "deep", "other-object", "string"],
)
def test_what_is_not_a_page_of_studies_is_named(content, message):
    with pytest.raises(InputError, match=message):
        read(content)
