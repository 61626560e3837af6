"""A model server of the kind that a Python team has: FastAPI, and a function that computes. This one takes as long as a
job says, so that the tests can try what becomes of slow jobs; yours would call its model there."""

import os
import time

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

app = FastAPI()
paused_until = 0.0


class Job(BaseModel):
    text: str
    seconds: float = Field(default=0, ge=0, le=600)


@app.get("/health")
def health():
    return {"status": "ready"}  # not before the model is loaded


@app.get("/pause")
def pause(seconds: float):
    """Not a part of a real server: refuses jobs for a while, as one does that has too many."""
    global paused_until
    paused_until = time.monotonic() + seconds
    return {"paused": seconds}


@app.post("/run")
def run(job: Job):
    if time.monotonic() < paused_until:
        raise HTTPException(503, "too many jobs", headers={"Retry-After": "5"})
    time.sleep(job.seconds)
    return {"text": job.text.upper(), "letters": len(job.text)}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
