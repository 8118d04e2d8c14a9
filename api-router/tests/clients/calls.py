"""Calls by a client that was generated from the OpenAPI document: a write, a read, the health."""

import sys

from tessera_client import Client
from tessera_client.api.data import read_rows, write_row
from tessera_client.api.operations import health
from tessera_client.models.health_answer import HealthAnswer
from tessera_client.models.read_answer import ReadAnswer
from tessera_client.models.read_rows_filters import ReadRowsFilters
from tessera_client.models.read_rows_x_consistency import ReadRowsXConsistency
from tessera_client.models.write_answer import WriteAnswer
from tessera_client.models.write_request import WriteRequest
from tessera_client.models.write_request_data import WriteRequestData


def main(url: str) -> None:
    router = Client(base_url=url)
    row = {"user_id": "user_py", "name": "Ada", "email": "ada@example.com"}
    body = WriteRequest(table="users", data=WriteRequestData.from_dict(row))
    written = write_row.sync(client=router, body=body, x_shard_key="user_py")
    assert isinstance(written, WriteAnswer), written

    for name, count in (("Ada", 1), ("Eve", 0)):
        filters = ReadRowsFilters.from_dict({"name": f"eq.{name}"})
        read = read_rows.sync(
            client=router,
            table="users",
            x_shard_key="user_py",
            x_consistency=ReadRowsXConsistency.QUORUM,
            filters=filters,
        )
        assert isinstance(read, ReadAnswer), read
        assert len(read.data) == count, read
        for found in read.data:
            assert found["user_id"] == "user_py", found

    state = health.sync(client=router)
    assert isinstance(state, HealthAnswer), state
    assert state.success, state


if __name__ == "__main__":
    main(sys.argv[1])
