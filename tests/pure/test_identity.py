"""Who may ask: tokens, sessions, and what is taken without either."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from tarn_am.api.answers import ApiError
from tarn_am.api.identity import SESSION_S, TokenCheck, caller, is_local
from tarn_am.api.repeats import Repeats

TOKEN = "sesame-0123456789"
CHECK = TokenCheck(TOKEN, "application_1700000000000_0001")


def headers(*pairs: tuple[str, str]) -> CIMultiDict[str]:
    return CIMultiDict(pairs)


class TestTheTokenIsProved:
    @pytest.mark.parametrize(
        "given",
        [
            headers(("X-TARN-Token", TOKEN)),
            headers(("x-tarn-token", TOKEN)),
            headers(("Authorization", f"Bearer {TOKEN}")),
            headers(("Authorization", f"bearer   {TOKEN} ")),
            headers(("X-TARN-Token", TOKEN), ("Authorization", f"Bearer {TOKEN}")),
        ],
    )
    def test_by_either_header_or_both(self, given: CIMultiDict[str]) -> None:
        assert CHECK.proves(given) is True

    def test_in_the_query_where_the_route_allows_it(self) -> None:
        assert CHECK.proves(headers(), TOKEN) is True
        assert CHECK.proves(headers(), TOKEN + "x") is False

    @pytest.mark.parametrize("wrong", ["", "sesame", TOKEN + " x", TOKEN.upper(), TOKEN[:-1], "\udcff\udcfe", "é", "x" * 8000])
    def test_a_wrong_one_is_not(self, wrong: str) -> None:
        assert CHECK.proves(headers(("X-TARN-Token", wrong))) is False

    @pytest.mark.parametrize("other", [headers(), headers(("Authorization", f"Basic {TOKEN}")), headers(("X-Token", TOKEN))])
    def test_none_given_is_neither(self, other: CIMultiDict[str]) -> None:
        assert CHECK.proves(other) is None


class TestDoublesAndContradictions:
    @pytest.mark.parametrize(
        "given",
        [
            headers(("X-TARN-Token", TOKEN), ("X-TARN-Token", TOKEN)),
            headers(("X-TARN-Token", "other"), ("x-tarn-token", TOKEN)),
            headers(("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Basic x")),
            headers(("X-TARN-Token", TOKEN), ("Authorization", "Bearer other")),
        ],
    )
    def test_are_refused(self, given: CIMultiDict[str]) -> None:
        with pytest.raises(ApiError) as caught:
            CHECK.proves(given)
        assert caught.value.status == 400
        assert TOKEN not in caught.value.error + caught.value.fix

    def test_a_query_token_that_differs_from_the_header_is_refused(self) -> None:
        with pytest.raises(ApiError, match="differ"):
            CHECK.proves(headers(("X-TARN-Token", TOKEN)), "other")


class TestASession:
    def test_holds_until_it_ends(self) -> None:
        value = CHECK.session(1000.0)
        assert CHECK.session_holds(value, 1000.0 + SESSION_S - 1)
        assert not CHECK.session_holds(value, 1000.0 + SESSION_S + 1)

    def test_does_not_contain_the_token(self) -> None:
        assert TOKEN not in CHECK.session(1000.0) + CHECK.cookie

    def test_of_another_token_or_application_does_not_hold(self) -> None:
        value = CHECK.session(1000.0)
        assert not TokenCheck("another", "application_1700000000000_0001").session_holds(value, 1001.0)
        assert not TokenCheck(TOKEN, "application_1700000000000_0002").session_holds(value, 1001.0)

    @pytest.mark.parametrize("forged", ["", ".", "9999999999.", "9999999999." + "0" * 64, "²." + "0" * 64, "\udcff.x", "9" * 5000 + ".a"])
    def test_that_is_forged_does_not_hold(self, forged: str) -> None:
        assert not CHECK.session_holds(forged, 1001.0)

    def test_with_its_end_moved_does_not_hold(self) -> None:
        until, _, signature = CHECK.session(1000.0).partition(".")
        assert not CHECK.session_holds(f"{int(until) + 1}.{signature}", 1001.0)

    def test_where_no_token_is_set_holds_for_nobody(self) -> None:
        nobody = TokenCheck(None, "application_1700000000000_0001")
        assert not nobody.session_holds(nobody.session(1000.0), 1001.0)

    def test_is_read_from_its_own_cookie_alone_and_not_from_two(self) -> None:
        value = CHECK.session(1000.0)
        assert CHECK.in_session(headers(("Cookie", f"a=b; {CHECK.cookie}={value}; c")), 1001.0)
        assert not CHECK.in_session(headers(("Cookie", f"other={value}")), 1001.0)
        assert not CHECK.in_session(headers(("Cookie", f"{CHECK.cookie}={value}; {CHECK.cookie}={value}")), 1001.0)
        assert not CHECK.in_session(headers(("Cookie", f"{CHECK.cookie}={value}"), ("Cookie", f"{CHECK.cookie}=x")), 1001.0)


class TestWhoAnOrderIsPutDownTo:
    def test_a_name_counts_with_the_token_alone(self) -> None:
        named = headers(("X-TARN-User", "alice@EXAMPLE.COM"))
        assert caller(named, "10.0.0.7", proved=True) == "alice@EXAMPLE.COM at 10.0.0.7"
        assert caller(named, "10.0.0.7", proved=False) == "10.0.0.7"

    @pytest.mark.parametrize("name", ["", "a b", "a\nb", "<b>", "x" * 65, "é"])
    def test_a_name_that_is_none_is_refused(self, name: str) -> None:
        with pytest.raises(ApiError, match="X-TARN-User"):
            caller(headers(("X-TARN-User", name)), "10.0.0.7", proved=True)

    def test_two_names_are_refused(self) -> None:
        with pytest.raises(ApiError, match="2 times"):
            caller(headers(("X-TARN-User", "alice"), ("X-TARN-User", "bob")), "10.0.0.7", proved=True)


class TestAnOrderFromThisMachine:
    @pytest.mark.parametrize("host", ["127.0.0.1:8888", "127.0.0.1", "localhost:8888", "LOCALHOST", "[::1]:8888", "127.1.2.3:1"])
    @pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
    def test_is_local(self, peer: str, host: str) -> None:
        assert is_local(peer, host)

    @pytest.mark.parametrize(
        ("peer", "host"),
        [
            ("10.0.0.7", "127.0.0.1:8888"),
            ("127.0.0.1", "evil.example.com:8888"),
            ("127.0.0.1", "localhost.evil.example.com"),
            ("127.0.0.1", "127.0.0.1.evil.example.com"),
            ("127.0.0.1", ""),
            ("127.0.0.1", "127.0.0.1:8888@evil"),
            ("127.0.0.1", "10.0.0.7:8888"),
            ("unknown", "localhost"),
        ],
    )
    def test_is_not_when_the_peer_or_the_name_is_elsewhere(self, peer: str, host: str) -> None:
        assert not is_local(peer, host)


class TestALogLineOnceAMinute:
    def test_the_first_at_once_and_the_rest_counted(self) -> None:
        repeats = Repeats(every_s=60)
        assert [repeats.note("a", at) for at in (0.0, 1.0, 2.0)] == [True, False, False]
        assert repeats.due(59.0) == []
        assert repeats.due(60.0) == [("a", 2)]
        assert repeats.due(120.0) == []
        assert repeats.note("a", 121.0)

    def test_keys_do_not_grow_without_bound(self) -> None:
        repeats = Repeats(every_s=60, limit=100)
        for number in range(10_000):
            assert repeats.note(str(number), 0.0)
        assert not repeats.note("9999", 1.0)
        assert repeats.note("1", 1.0)
