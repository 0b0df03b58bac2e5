"""Let the demo model of a running server (`make serve`) call two functions, one after the other, and answer."""

from __future__ import annotations

import json
import os
from typing import Any

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("QUINCE_URL", "http://127.0.0.1:8000") + "/v1", api_key="unused")


def get_weather(city: str) -> dict[str, Any]:
    return {"temperature": 21, "condition": "sunny"}


def multiply(a: float, b: float) -> dict[str, Any]:
    return {"result": a * b}


def tool(name: str, description: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


functions = {"get_weather": get_weather, "multiply": multiply}
tools = [
    tool("get_weather", "Get the weather of a city", city={"type": "string"}),
    tool("multiply", "Multiply two numbers", a={"type": "number"}, b={"type": "number"}),
]
messages: list[Any] = [
    {"role": "user", "content": "What is the weather in Paris? After that, what is 17 times 4?"}
]  # fmt: skip

while True:
    answer = client.chat.completions.create(model="quince-demo", messages=messages, tools=tools, temperature=0)
    message = answer.choices[0].message
    messages.append(message)
    if not message.tool_calls:
        break
    for call in message.tool_calls:
        result = functions[call.function.name](**json.loads(call.function.arguments))
        print(f"{call.function.name}({call.function.arguments}) -> {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})

print(message.content)
