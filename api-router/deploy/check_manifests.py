#!/usr/bin/env python3
"""Checks what no schema knows about the manifests: that they fit each other, and what every pod must have.

    check_manifests.py MANIFESTS
"""

import re
import sys

import yaml


def pods(documents):
    for document in documents:
        if document["kind"] in ("StatefulSet", "Deployment"):
            yield document["metadata"]["name"], document["spec"]["template"]


def check_pod(name, template):
    spec = template["spec"]
    security = spec["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] == 10001, name
    assert security["seccompProfile"]["type"] == "RuntimeDefault", name
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False, name
    assert spec["topologySpreadConstraints"], name
    for container in spec["containers"]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"], name
        assert rights["capabilities"] == {"drop": ["ALL"]}, name
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe], f"{name} has no {probe}"
        assert container["resources"]["requests"] and container["resources"]["limits"]["memory"], name


def check_names(documents, names):
    """Whatever one of them names there is."""
    for name, template in pods(documents):
        claims = [
            claim["metadata"]["name"]
            for document in documents
            if document["metadata"]["name"] == name
            for claim in document["spec"].get("volumeClaimTemplates", [])
        ]
        known = {volume["name"] for volume in template["spec"].get("volumes", [])} | set(claims)
        mounted = {mount["name"] for it in template["spec"]["containers"] for mount in it["volumeMounts"]}
        assert mounted == known, f"{name}: {mounted ^ known}"
        for volume in template["spec"].get("volumes", []):
            if "secret" in volume and not volume["secret"].get("optional"):
                assert ("Secret", volume["secret"]["secretName"]) in names, f"{name}: {volume}"
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names, f"{name}: {volume}"
    for document in documents:
        if document["kind"] == "StatefulSet":
            assert ("Service", document["spec"]["serviceName"]) in names
        if document["kind"] == "HorizontalPodAutoscaler":
            target = document["spec"]["scaleTargetRef"]
            assert (target["kind"], target["name"]) in names


def check_selectors(documents):
    """Every selector takes a pod that there is."""
    labels = [template["metadata"]["labels"] for _, template in pods(documents)]
    for document in documents:
        spec = document.get("spec", {})
        wanted = spec.get("podSelector", spec.get("selector"))
        if document["kind"] == "Service":
            wanted = {"matchLabels": wanted}
        if wanted:
            wanted = wanted["matchLabels"].items()
            assert any(wanted <= found.items() for found in labels), f"{document['kind']}: {wanted}"


def check_hosts(documents):
    """The settings of the routers name every node by the name that it has, and no other."""
    told = next(it["data"]["tessera.toml"] for it in documents if it["kind"] == "ConfigMap")
    hosts = set(re.findall(r"[a-z0-9-]+\.[a-z0-9-]+(?=[,/])", " ".join(re.findall(r'"postgres://([^"]*)"', told))))
    nodes = {
        f"{it['metadata']['name']}-{number}.{it['spec']['serviceName']}"
        for it in documents
        if it["kind"] == "StatefulSet"
        for number in range(it["spec"]["replicas"])
    }
    assert hosts == nodes, hosts ^ nodes


def main(path):
    documents = [document for document in yaml.safe_load_all(open(path)) if document]
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for name, template in pods(documents):
        check_pod(name, template)
    check_names(documents, names)
    check_selectors(documents)
    check_hosts(documents)
    budgets = [document for document in documents if document["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == len(list(pods(documents))), "a budget for each set of pods"
    print(f"{len(documents)} manifests fit each other")


if __name__ == "__main__":
    main(*sys.argv[1:])
