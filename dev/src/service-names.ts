/** The services that the stack runs, and the ports they take when those are free. */
export const usualServicePorts = {
  gateway: 8010,
  'conversation-worker': 8021,
  'tool-executor': 8022,
  'outbox-sync': 8023,
} as const;

export type ServiceName = keyof typeof usualServicePorts;

export const serviceNames: readonly ServiceName[] = [
  'gateway',
  'conversation-worker',
  'tool-executor',
  'outbox-sync',
];
