"""The made-up market data, without a server."""

import json

from proxy.sandbox import data


def test_a_known_asset_is_found_by_name_and_symbol_in_any_case() -> None:
    assert data.market_data("bitcoin") == data.market_data("BTC")
    assert json.loads(data.market_data("btc"))["data"]["name"] == "Bitcoin"


def test_prices_are_near_what_they_should_be() -> None:
    price = json.loads(data.market_data("USDC"))["data"]["price"]
    assert 0.97 <= price <= 1.03


def test_the_shares_of_a_portfolio_make_a_whole() -> None:
    held = json.loads(data.portfolio("0x1"))["data"]["assets"]
    assert abs(sum(asset["allocation"] for asset in held) - 100) < 0.1


def test_answers_do_not_change_from_process_to_process() -> None:
    assert json.loads(data.token_details("Ethereum", "0x1"))["data"]["symbol"] == "C624"
    assert data.trade(1) != data.trade(2)


def test_names_that_are_no_text_are_survived() -> None:
    assert json.loads(data.market_data("\udcff"))["data"]["name"]
