"""FastAPI, as it is: routes, a lifespan with state, a background task, a streamed response.

pip install fastapi
pounce examples.fastapi_app:app

Orders are kept in memory, so it is for one worker: several would each have their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class State(TypedDict):
    orders: dict[int, Order]
    receipts: list[str]


class Order(BaseModel):
    item: str
    quantity: int = 1


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    """A place to open what all requests share, such as a pool of database connections."""
    yield {"orders": {}, "receipts": []}


app = FastAPI(title="Orders", lifespan=lifespan)


@app.post("/orders", status_code=201)
async def create_order(
    order: Order, request: Request, background: BackgroundTasks
) -> dict[str, int]:
    number = len(request.state.orders) + 1
    request.state.orders[number] = order
    background.add_task(request.state.receipts.append, f"{order.quantity} x {order.item}")
    return {"number": number}


@app.get("/orders/{number}")
async def read_order(number: int, request: Request) -> Order:
    orders: dict[int, Order] = request.state.orders
    if number not in orders:
        raise HTTPException(404, f"there is no order {number}")
    return orders[number]


@app.get("/receipts")
async def read_receipts(request: Request) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for receipt in list(request.state.receipts):
            yield receipt + "\n"

    return StreamingResponse(lines(), media_type="text/plain")
