import { deleteRows, staleRows } from '../src/outbox-sql.ts';
import { sendRow } from '../src/row-sending.ts';
import type { Process } from './stack.ts';

const slots = Array.from({ length: 64 }, (_, slot) => slot);

/** One round of a relay over everything that waits in the outbox. Resolves with the number of rows. */
export async function relayOnce(process: Process): Promise<number> {
  const rows = await staleRows(process.database, slots, 0, 1_000, []);
  await Promise.all(
    rows.map(
      (row) =>
        new Promise<void>((resolve, reject) =>
          process.messaging.producer.enqueue(
            sendRow(row, 'relay', { sent: () => resolve(), refused: reject }),
          ),
        ),
    ),
  );
  await deleteRows(process.database, rows);
  return rows.length;
}
