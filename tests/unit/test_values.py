"""What authors and operators may write: quantities, ports, networks, images."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook import values


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("100000", "100k"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1025", "1025"),
        ("0.5Ki", "512"),
        ("2000Ki", "2000Ki"),
        ("128M", "128M"),
        ("0", "0"),
        ("129e6", "129M"),
        ("1E3", "1k"),
        ("5e-1", "500m"),
        (".5", "500m"),
    ],
)
def test_a_quantity_is_shown_as_the_api_server_stores_it(written: str, canonical: str) -> None:
    assert str(values.parse_quantity(written)) == canonical


@given(st.integers(0, 10**9), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "Gi"]))
def test_a_canonical_quantity_reads_back_as_itself(number: int, suffix: str) -> None:
    quantity = values.parse_quantity(f"{number}{suffix}")
    again = values.parse_quantity(str(quantity))
    assert again.nano == quantity.nano
    assert str(again) == str(quantity)


@pytest.mark.parametrize("text", ["", "-1", "1e300", "1Mb", "1 Mi", "0x10", "\uff11", "1m\n", "banana", "9" * 30])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|large"):
        values.parse_quantity(text)


def test_thousandths_of_a_byte_are_refused_with_what_was_meant() -> None:
    with pytest.raises(ValueError, match=r"did you mean 128Mi\?"):
        values.parse_memory("128m")


@pytest.mark.parametrize("text", ["0", "0.5m", "100u"])
def test_cpu_comes_in_thousandths_of_a_core(text: str) -> None:
    with pytest.raises(ValueError, match="multiple of 1m"):
        values.parse_cpu(text)


def test_a_share_is_rounded_up() -> None:
    assert str(values.Percent(10).of(values.parse_cpu("25m"), 10**6)) == "3m"
    assert str(values.Percent(50).of(values.parse_memory("1Gi"), 10**9)) == "512Mi"


@pytest.mark.parametrize("text", ["0%", "101%", "999%"])
def test_a_share_is_between_1_and_100_percent(text: str) -> None:
    with pytest.raises(ValueError, match="1% to 100%"):
        values.share_or(values.parse_cpu)(text)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("", ()),
        ("80", ((80, 80),)),
        (" 443 , 80 ", ((80, 80), (443, 443))),
        ("8000-8010,8011,8005-8020", ((8000, 8020),)),
        ("1-65535", ((1, 65535),)),
    ],
)
def test_ports_are_sorted_and_merged(text: str, ports: values.Ports) -> None:
    assert values.parse_ports(text) == ports


@pytest.mark.parametrize("text", ["0", "65536", "90-80", "80,", "http", "80;443", "-1", "8_0"])
def test_what_is_no_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no port; use ports from 1 to 65535"):
        values.parse_ports(text)


@pytest.mark.parametrize("parse", [values.parse_ports, values.parse_cidrs, values.parse_services])
def test_a_list_holds_at_most_128_entries(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match="the most is 128"):
        parse(",".join(["1"] * 129))


def test_networks_of_both_families_are_canonical() -> None:
    assert values.parse_cidrs("10.0.0.0/8, FD00:0::/8,10.0.0.1,10.0.0.0/8") == (
        "10.0.0.0/8",
        "fd00::/8",
        "10.0.0.1/32",
    )


@pytest.mark.parametrize(
    "text", ["10.0.0.0/33", "10.0.0", "banana", "fe80::%1/64", "10.0.0.0/255.0.0.0", "10.0.0.0/08", "10.0.0.0/"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no network"):
        values.parse_cidrs(text)


def test_bits_behind_the_prefix_are_refused_with_what_was_meant() -> None:
    with pytest.raises(ValueError, match=r"did you mean 10\.0\.0\.0/8 or 10\.1\.2\.3\?"):
        values.parse_cidrs("10.1.2.3/8")


@pytest.mark.parametrize(
    "image",
    [
        "envoy",
        "envoyproxy/envoy:v1.40.0",
        "registry.example:5000/team/envoy@sha256:" + "a" * 64,
        "docker.io/envoyproxy/envoy:distroless-v1.40.0",
    ],
)
def test_image_references_are_accepted(image: str) -> None:
    assert values.parse_image(image) == image


@pytest.mark.parametrize(
    "image", ["", "Envoy", "envoy:", "a b", 'envoy"', "envoy@sha256:1", "x" * 600, "a//b", "a/../b", "a..b"]
)
def test_what_is_no_image_is_refused(image: str) -> None:
    with pytest.raises(ValueError, match="use an image reference"):
        values.parse_image(image)


def test_a_misspelt_word_is_refused_with_the_nearest_right_one() -> None:
    with pytest.raises(ValueError, match=r"use one of native, classic; did you mean native\?"):
        values.one_of("native", "classic")("natve")


@given(st.text(max_size=200))
def test_quoted_text_is_one_printable_line(text: str) -> None:
    shown = values.quote(text)
    assert shown.isprintable()
    assert len(shown) <= 43
