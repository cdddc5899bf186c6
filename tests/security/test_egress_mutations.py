"""Every probe of egress fails when its control is taken away from the service: see egress_mutants.py."""

import functools
from pathlib import Path

import pytest

from tests.security.egress_mutants import MUTANTS
from tests.security.test_mutations import noticed, outcomes

pytestmark = [pytest.mark.security, pytest.mark.mutation, pytest.mark.root, pytest.mark.timeout(300)]

E = "tests/security/test_egress.py::"
DNS = "tests/security/test_egress_dns.py::"
P = "tests/security/test_egress_pressure.py::"

MIXED = P + "TestMixed::test_ne14_no_false_allow_among_two_thousand"
INSIDE = [
    E + f"TestNe02::test_ne02_a_name_that_leads_inside_is_not_dialled[{found}]"
    for found in ("internal", "loopback", "any", "loopback6", "any6", "mapped")
]
OWN = E + "TestNe02::test_ne02_a_name_that_leads_inside_is_not_dialled[own]"
REQUESTS = E + "TestNe08::test_ne08_each_request_names_its_own_host"
LATER = [
    E + f"TestNe08::test_ne08_a_later_request_is_looked_at_as_well[{kind}]"
    for kind in ("host", "absolute", "connect", "hostless", "h2c", "upgrade")
]
SMUGGLED = E + "TestNe08::test_ne08_what_is_smuggled_never_becomes_a_request"
HELLOS = E + "TestNe07::test_ne07_only_the_name_that_was_resolved"
OPAQUE_TLS = E + "TestNe07::test_ne07_an_opaque_origin_that_is_asked_in_tls_must_be_meant"
OTHER_WAY = E + "TestNe07::test_ne07_tls_on_80_and_http_on_443_are_refused"
SPELLINGS = E + "TestNe04::test_ne04_no_spelling_of_a_host_leads_elsewhere"
CONNECT = E + "TestNe09::test_ne09_connect_is_no_proxy_and_an_inner_name_is_not_believed"
BANNERS = E + "TestNe18::test_ne18_other_protocols_pass_only_where_a_port_is_written"
STRANGE = E + "TestNe14::test_ne14_an_address_that_stands_for_nothing_is_refused"
THEIRS = E + "TestNe14::test_ne14_an_address_of_another_session_is_refused"
LISTED = E + "TestNe14::test_ne14_only_listed_ports"
SESSIONS = E + "TestNe17::test_ne17_a_session_is_the_socket_it_came_in_on"
HIJACKED = E + "TestNe15::test_ne15_taking_ports_of_the_namespace_gives_nothing"
DIRECT = E + "TestNe15::test_ne15_the_services_own_ports_lead_nowhere"
DENIED_NAMES = DNS + "TestNe06::test_ne06_a_denied_name_is_never_asked_upstream"
AT_CONNECT = DNS + "TestNe06::test_ne06_only_the_connection_that_is_allowed_asks"
BROKEN_OFF = P + "TestNe20::test_ne20_what_is_no_longer_allowed_is_broken_off_and_the_rest_goes_on"
RACE = P + "TestNe20::test_ne20_a_connection_that_waits_for_its_address_is_judged_again"
FLIPS = P + "TestNe20::test_ne20_after_the_call_returned_nothing_of_the_old_policy_succeeds"
SILENT = P + "TestRx05::test_rx05_whoever_says_nothing_is_hung_up_on"
HALF_OPEN = P + "TestRx05::test_rx05_thousands_of_half_open_connections_are_their_sessions_own_affair"
EXHAUSTED = P + "TestRx05::test_rx05_without_descriptors_nothing_is_allowed"
DOOR = P + "TestRx05::test_rx05_the_service_answers_again_when_it_has_descriptors"
KILLED = P + "TestSr05::test_sr05_a_service_that_is_killed_lets_nothing_through_and_comes_back"

#: What is taken away, to the probes that must notice.
PROBES: dict[str, list[str]] = {
    "every_address_is_dialled": [
        *INSIDE,
        OWN,
        E + "TestNe02::test_ne02_the_reason_says_what_the_address_is",
        E + "TestNe02::test_ne02_mixed_answers_reach_the_open_one_only",
        E + "TestNe02::test_ne02_an_alias_into_the_inside_is_not_dialled",
        E + "TestNe02::test_ne02_an_address_that_changes_is_checked_each_time",
        MIXED,
    ],
    "own_addresses_are_dialled": [E + "TestNe04::test_ne04_an_address_is_allowed_where_it_is_written_out"],
    "all_answers_are_dialled": [E + "TestNe02::test_ne02_mixed_answers_reach_the_open_one_only"],
    "nothing_is_inspected": [REQUESTS, HELLOS, OTHER_WAY, OPAQUE_TLS, CONNECT, BANNERS],
    "only_the_first_request_is_inspected": [*LATER, SMUGGLED],
    "a_host_is_not_compared": [REQUESTS, LATER[0], SPELLINGS, SESSIONS, MIXED],
    "a_server_name_is_not_compared": [HELLOS, OPAQUE_TLS, SPELLINGS, CONNECT, MIXED],
    "a_server_name_may_be_missing": [HELLOS, MIXED],
    "no_tls_passes": [HELLOS, OTHER_WAY, BANNERS],
    "every_port_is_allowed": [LISTED, AT_CONNECT],
    "every_name_is_allowed": [
        E + "TestNe03::test_ne03_no_variable_decides[none]",
        E + "TestNe03::test_ne03_no_variable_decides[misled]",
        E + "TestNe06::test_ne06_a_wildcard_is_what_is_below_it",
        E + "TestNe16::test_ne16_nothing_of_the_hosts_answers",
        E + "TestNe17::test_ne17_a_relay_of_the_guests_own_changes_nothing",
        E + "TestNe18::test_ne18_redirects_are_the_guests_to_follow",
        LISTED,
        HIJACKED,
        DENIED_NAMES,
        MIXED,
    ],
    "every_name_resolves": [DENIED_NAMES, E + "TestNe06::test_ne06_a_wildcard_is_what_is_below_it"],
    "a_name_is_asked_for_at_once": [DENIED_NAMES, AT_CONNECT, MIXED],
    "one_pool_for_all": [THEIRS, DNS + "TestNe06::test_ne06_reverse_names_tell_of_this_session_only"],
    "one_policy_for_all": [SESSIONS, KILLED],
    "a_strange_address_is_the_first_name": [STRANGE, MIXED],
    "the_original_destination_is_not_asked": [DIRECT, STRANGE, LISTED],
    "tunnels_outlive_their_policy": [BROKEN_OFF],
    "policies_stay": [BROKEN_OFF, RACE, FLIPS],
    "a_rule_is_asked_once": [RACE],
    "a_head_may_take_for_ever": [SILENT],
    "any_number_of_connections": [HALF_OPEN],
    "a_door_closes_for_want_of_descriptors": [DOOR],
    "guests_take_the_last_descriptors": [EXHAUSTED],
    "what_was_given_up_is_done": [KILLED],
    "other_types_do_not_exist": [DNS + "TestNe06::test_ne06_other_types_of_an_allowed_name_are_empty"],
    "a_denial_is_not_told": [LISTED, INSIDE[0], OTHER_WAY, DENIED_NAMES],
}


@functools.cache
def all_probes() -> list[str]:
    return sorted({probe for probes in PROBES.values() for probe in probes})


def test_every_control_has_its_probes() -> None:
    assert PROBES.keys() == MUTANTS.keys()


def test_with_every_control_all_pass(tmp_path: Path) -> None:
    assert {probe: went for probe, went in outcomes(tmp_path, all_probes()).items() if went != "passed"} == {}


@pytest.mark.parametrize("control", PROBES)
def test_a_control_taken_away_is_noticed(control: str, tmp_path: Path) -> None:
    noticed(outcomes(tmp_path, PROBES[control], ALCOVE_TEST_EGRESS_MUTANT=control))
