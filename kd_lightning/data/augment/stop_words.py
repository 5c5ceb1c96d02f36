"""Which words may be replaced: those of letters, but for the closed classes of a language, which carry its grammar."""

import unicodedata

DETERMINERS = (
    "a an the this that these those each every either neither both all any some no none few many much more most less least "
    "several enough such other another same own"
)
PRONOUNS = (
    "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself "
    "it its itself they them their theirs themselves one oneself who whom whose which what whoever whatever whichever someone "
    "somebody something anyone anybody anything everyone everybody everything nobody nothing"
)
AUXILIARIES = (
    "be am is are was were been being have has had having do does did doing done will would shall should can could may might "
    "must ought cannot"
)
CONTRACTIONS = (  # what is left of them where they are split at the apostrophe: don ' t, we ' ll
    "s t d m ll re ve isn aren wasn weren haven hasn hadn don doesn didn won wouldn shan shouldn couldn mightn mustn needn ain"
)
PREPOSITIONS = (
    "about above across after against along amid among around as at before behind below beneath beside besides between beyond "
    "by despite down during except for from in inside into near of off on onto out outside over past per since through "
    "throughout till to toward towards under underneath until up upon via with within without"
)
CONJUNCTIONS = "and but or nor so yet if because although though unless while whereas whether than lest"
ADVERBS = (  # those that stand for no content of their own
    "not only just very too then there here now when where why how whenever wherever however again further once ever also thus "
    "hence therefore"
)
ENGLISH = " ".join((DETERMINERS, PRONOUNS, AUXILIARIES, CONTRACTIONS, PREPOSITIONS, CONJUNCTIONS, ADVERBS)).split()
STOP_WORDS = {"en": frozenset(ENGLISH)}  # language -> its words in lower case; one without a list has none


def of_letters(word: str) -> bool:
    """Whether a word is of letters, in any script, with the marks that belong to them (vowel signs, accents)."""
    return word[:1].isalpha() and all(sign.isalpha() or unicodedata.category(sign)[0] == "M" for sign in word)
