import type { OutboxRecord } from './outbox-sql.ts';
import type { PlainRecord } from './outgoing.ts';
import type { Sending } from './producer.ts';
import { type PublishSpan, startPublishSpan } from './publish-span.ts';

/** About what the record takes in a request: headers and framing are small, but not nothing. */
export function wireBytes(record: PlainRecord): number {
  let bytes = 32 + record.key.length + (record.value?.length ?? 0);
  for (const name in record.headers) bytes += 4 + name.length + (record.headers[name]?.length ?? 0);
  return bytes;
}

/** An outbox row as something to send, with its publish span from the first try to the answer. */
export function sendRow(
  row: Pick<OutboxRecord, 'topic' | 'key' | 'headers' | 'value'>,
  path: 'fast' | 'adopt' | 'relay',
  told: Pick<Sending, 'sent' | 'refused'>,
): Sending {
  let span: PublishSpan | undefined;
  return {
    topic: row.topic,
    key: row.key,
    bytes: wireBytes(row),
    withdrawn: false,
    record() {
      span = startPublishSpan(path, row.topic, row.headers);
      return { topic: row.topic, key: row.key, headers: span.headers, value: row.value };
    },
    sent(receipt) {
      span?.end();
      told.sent(receipt);
    },
    refused(reason) {
      span?.end(reason);
      told.refused(reason);
    },
  };
}
