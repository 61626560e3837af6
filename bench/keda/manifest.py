"""KEDA's own manifest, from standard input, as this cluster takes it: images that were built here, and without the
admission webhooks, which are a third program that the measurement has no use for. Prints it. Argument: KEDA's version."""

import re
import sys

BUILT = {"keda": "millrace-bench/keda", "keda-metrics-apiserver": "millrace-bench/keda-metrics-apiserver"}


def of_webhooks(text):
    kind = re.search(r"^kind: (\w+)$", text, re.M)
    return bool(kind) and (kind[1] == "ValidatingWebhookConfiguration" or
                           kind[1] in ("Deployment", "Service") and "name: keda-admission" in text)


def built(match):
    indent, name = match[1], match[2]
    if name not in BUILT:
        sys.exit(f"KEDA's manifest has an image that is not built here: {name}")
    return f"{indent}image: {BUILT[name]}:{version}\n{indent}imagePullPolicy: Never"


version = sys.argv[1]
kept = [text for text in sys.stdin.read().split("\n---\n") if not of_webhooks(text)]
manifest, images = re.subn(r"^( +)image: \S*/([\w-]+):\S+\n +imagePullPolicy: Always$", built, "\n---\n".join(kept), flags=re.M)
if images != len(BUILT):
    sys.exit(f"KEDA's manifest names {images} images in the expected form, not {len(BUILT)}: bench/keda/manifest.py needs care")
print(manifest)
