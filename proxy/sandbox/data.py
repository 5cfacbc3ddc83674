"""Market data that looks real: made up, but the same for the same question every time. Pure.

Shapes as on Mobula's pages "Market data", "Wallet portfolio" and "Token details". Payloads are
remembered as JSON bytes, so that a demo under load spends its time on the traffic.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

from proxy.sandbox.answer import dump


class _Asset(NamedTuple):
    name: str
    symbol: str
    price: float
    supply: float
    contract: str
    blockchain: str = "Ethereum"


_ASSETS = (
    _Asset("Bitcoin", "BTC", 97250.0, 19.8e6, "0x2260fac5e5542a773aa44fbcfedf7c193bc2c599"),
    _Asset("Ethereum", "ETH", 3400.0, 120.4e6, "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"),
    _Asset("USDC", "USDC", 1.0, 43e9, "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"),
    _Asset("Uniswap", "UNI", 13.2, 600e6, "0x1f9840a85d5af5bf1d1762f925bdaddc4201f984"),
    _Asset("Mobula", "MOBL", 0.012, 118e6, "0x5feccd17c393ba5001d0d9a6de7ef6bc0fbc0deb"),
)
_KNOWN = {name.lower(): asset for asset in _ASSETS for name in (asset.name, asset.symbol)}


class _Numbers:
    """Numbers that follow from `seed` alone, the same in every process."""

    def __init__(self, *seed: str) -> None:
        self._state = hashlib.sha256("\0".join(seed).encode("utf-8", "replace"))

    def between(self, low: float, high: float) -> float:
        self._state.update(b"+")
        share = int.from_bytes(self._state.digest()[:6], "big") / 2**48
        return round(low + (high - low) * share, 6)

    def hex(self, digits: int) -> str:
        self._state.update(b"x")
        return self._state.hexdigest()[:digits]


def _asset(name: str) -> _Asset:
    folded = name.lower()
    if known := _KNOWN.get(folded):
        return known
    numbers = _Numbers("asset", folded)
    price, supply = numbers.between(0.0001, 40), round(numbers.between(1e6, 5e9))
    return _Asset(name, name[:5].upper(), price, supply, f"0x{numbers.hex(40)}")


def _market(name: str) -> dict[str, object]:
    asset = _asset(name)
    numbers = _Numbers("market", asset.name.lower())
    price = round(asset.price * numbers.between(0.97, 1.03), 8)
    return {
        "id": round(numbers.between(1, 100_000_000)),
        "name": asset.name,
        "symbol": asset.symbol,
        "logo": f"https://metadata.mobula.io/assets/logos/{asset.contract}.webp",
        "contracts": [asset.contract],
        "blockchains": [asset.blockchain],
        "decimals": [18],
        "rank": round(numbers.between(1, 3000)),
        "price": price,
        "price_change_1h": numbers.between(-1.5, 1.5),
        "price_change_24h": numbers.between(-8, 8),
        "price_change_7d": numbers.between(-20, 20),
        "price_change_1m": numbers.between(-40, 40),
        "volume": round(price * asset.supply * numbers.between(0.01, 0.08), 2),
        "volume_change_24h": numbers.between(-40, 40),
        "liquidity": round(price * asset.supply * numbers.between(0.001, 0.01), 2),
        "market_cap": round(price * asset.supply, 2),
        "market_cap_diluted": round(price * asset.supply * numbers.between(1, 1.4), 2),
        "circulating_supply": asset.supply,
        "total_supply": asset.supply,
        "ath": round(price * numbers.between(1.05, 4), 8),
        "atl": round(price * numbers.between(0.001, 0.3), 8),
        "is_listed": True,
    }


@lru_cache(maxsize=1024)
def market_data(asset: str) -> bytes:
    return dump({"data": _market(asset)})


@lru_cache(maxsize=1024)
def multi_data(assets: tuple[str, ...]) -> bytes:
    return dump({"data": {asset: _market(asset) for asset in assets}})


@lru_cache(maxsize=1024)
def portfolio(wallet: str) -> bytes:
    numbers = _Numbers("wallet", wallet.lower())
    holdings = [_holding(asset, numbers) for asset in _ASSETS]
    total = sum(value for _, value in holdings)
    assets = [{**held, "allocation": round(100 * value / total, 2)} for held, value in holdings]
    balance = {"total_wallet_balance": round(total, 2), "wallets": [wallet], "assets": assets}
    return dump({"data": balance})


def _holding(asset: _Asset, numbers: _Numbers) -> tuple[dict[str, object], float]:
    value = numbers.between(10, 25_000)
    amount = value / asset.price
    held: dict[str, object] = {
        "asset": {
            "name": asset.name,
            "symbol": asset.symbol,
            "contracts": [asset.contract],
            "blockchains": [asset.blockchain],
        },
        "price": asset.price,
        "token_balance": round(amount, 8),
        "estimated_balance": round(value, 2),
        "price_bought": round(asset.price * numbers.between(0.6, 1.2), 8),
        "realized_pnl": numbers.between(-500, 1500),
        "unrealized_pnl": numbers.between(-500, 1500),
    }
    return held, value


@lru_cache(maxsize=1024)
def token_details(blockchain: str, address: str) -> bytes:
    numbers = _Numbers("token", blockchain.lower(), address.lower())
    price, supply = numbers.between(0.00001, 12), round(numbers.between(1e6, 1e10))
    name = f"Sandbox {numbers.hex(4).upper()}"
    details = {
        "address": address,
        "blockchain": blockchain,
        "chainId": "evm:1",
        "name": name,
        "symbol": name[-4:],
        "decimals": 18,
        "priceUSD": price,
        "marketCapUSD": round(price * supply, 2),
        "liquidityUSD": numbers.between(10_000, 4_000_000),
        "totalSupply": supply,
        "holdersCount": round(numbers.between(20, 90_000)),
        "top10HoldingsPercentage": numbers.between(5, 60),
        "volume24hUSD": numbers.between(1000, 2_000_000),
        "trades24h": round(numbers.between(10, 50_000)),
        "priceChange24hPercentage": numbers.between(-30, 30),
        "deployer": f"0x{numbers.hex(40)}",
    }
    return dump({"data": details})


def trade(number: int) -> bytes:
    """Return the `number`th trade of the stream, as JSON."""
    numbers = _Numbers("trade", str(number))
    amount, price = numbers.between(0.01, 20), numbers.between(3380, 3420)
    return dump(
        {
            "pair": "ETH/USDC",
            "type": "buy" if numbers.between(0, 1) < 0.5 else "sell",
            "token_price": price,
            "token_amount": amount,
            "token_amount_usd": round(amount * price, 2),
            "hash": f"0x{numbers.hex(64)}",
        }
    )
