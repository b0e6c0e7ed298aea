/** The place of an event in its session: `<epoch>-<offset>` of its record in conversation.outbound (delivery rule 21). */
export interface StreamPosition {
  readonly epoch: number;
  readonly position: bigint;
}

/** Before the first event of any session. */
export const streamStart: StreamPosition = Object.freeze({ epoch: 0, position: 0n });

const idForm = /^(0|[1-9]\d{0,8})-(0|[1-9]\d{0,18})$/;
const maxPosition = 2n ** 63n - 1n;

/** Reads a stream id as a client or Redis gives it; undefined when it is none. */
export function parseStreamId(text: string): StreamPosition | undefined {
  const match = idForm.exec(text);
  if (match === null) return undefined;
  const position = BigInt(match[2] ?? '');
  return position > maxPosition ? undefined : { epoch: Number(match[1]), position };
}

export function formatStreamId({ epoch, position }: StreamPosition): string {
  return `${epoch}-${position}`;
}

/** Below 0 when `a` comes before `b`, 0 when they are the same place. */
export function comparePositions(a: StreamPosition, b: StreamPosition): number {
  if (a.epoch !== b.epoch) return a.epoch - b.epoch;
  return a.position < b.position ? -1 : a.position > b.position ? 1 : 0;
}
