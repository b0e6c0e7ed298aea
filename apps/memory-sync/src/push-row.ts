import { fault } from '@signalbox/faults/fault';
import type { WorkItem, WorkRow } from '@signalbox/work/worker';
import type { Push } from './memory-store.ts';

/** Versions of the payload that this release can push. */
export const pushFormats = [1] as const;

/** The work row of a version. Its lane is the memory: versions of one go to the backend one after the other. */
export function pushRow(of: {
  readonly tenant: string;
  readonly memoryId: string;
  readonly version: number;
  readonly pushId: string | undefined;
  readonly traceparent: string | undefined;
  readonly requestId: string | undefined;
}): WorkRow {
  if (of.pushId === undefined) throw fault('INTERNAL_ERROR', 'a version without a work row is pushed');
  return {
    tenant: of.tenant,
    id: of.pushId,
    key: of.memoryId,
    format: pushFormats[0],
    payload: {
      version: of.version,
      ...(of.requestId === undefined ? {} : { request_id: of.requestId }),
    },
    ...(of.traceparent === undefined ? {} : { traceparent: of.traceparent }),
  };
}

/** The version of a claimed row. @throws INTERNAL_ERROR for a payload that this release does not read. */
export function readPush(item: WorkItem): Push & { readonly requestId: string | undefined } {
  const { payload } = item;
  const fields = new Map<string, unknown>(
    typeof payload === 'object' && payload !== null ? Object.entries(payload) : [],
  );
  const version = fields.get('version');
  const requestId = fields.get('request_id');
  if (typeof version !== 'number') {
    throw fault('INTERNAL_ERROR', 'the payload is not one that this release reads');
  }
  return {
    tenant: item.tenant,
    memoryId: item.key,
    version,
    requestId: typeof requestId === 'string' ? requestId : undefined,
  };
}
