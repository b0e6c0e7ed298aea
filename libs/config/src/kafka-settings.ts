import { choice, integer, list, secret, text } from './settings.ts';

/** The connection of a service to Kafka. */
export const kafkaSettings = {
  kafkaBootstrapServers: list({
    env: 'KAFKA_BOOTSTRAP_SERVERS',
    doc: 'Brokers as host:port.',
    min: 1,
    max: 100,
    pattern: /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}$/,
  }),
  kafkaGroupId: text({
    env: 'KAFKA_GROUP_ID',
    doc: 'Prefix of the consumer groups: <prefix>.<service>.<topic>.',
    default: 'signalbox',
    pattern: /^[A-Za-z0-9._-]+$/,
    max: 128,
  }),
  kafkaTopicPrefix: text({
    env: 'KAFKA_TOPIC_PREFIX',
    doc: 'Put before every topic name, for stacks that share a broker.',
    default: '',
    min: 0,
    max: 100,
    pattern: /^[A-Za-z0-9._-]*$/,
  }),
  kafkaClusterId: text({
    env: 'KAFKA_CLUSTER_ID',
    doc: 'Id of the cluster; a broker of another one is refused. Any where none is set.',
    optional: true,
    max: 128,
  }),
  kafkaAutoOffsetReset: choice({
    env: 'KAFKA_AUTO_OFFSET_RESET',
    doc: 'Where a group without offsets starts. Only earliest loses nothing: latest skips what was accepted before the group was new.',
    values: ['earliest', 'latest'],
    default: 'earliest',
  }),
  kafkaSecurityProtocol: choice({
    env: 'KAFKA_SECURITY_PROTOCOL',
    doc: 'How brokers are spoken to.',
    values: ['PLAINTEXT', 'SSL', 'SASL_PLAINTEXT', 'SASL_SSL'],
    default: 'PLAINTEXT',
  }),
  kafkaSaslMechanism: choice({
    env: 'KAFKA_SASL_MECHANISM',
    doc: 'For the SASL protocols.',
    values: ['PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512'],
    default: 'SCRAM-SHA-512',
  }),
  kafkaSaslUsername: text({ env: 'KAFKA_SASL_USERNAME', doc: 'For the SASL protocols.', optional: true }),
  kafkaSaslPassword: secret({ env: 'KAFKA_SASL_PASSWORD', doc: 'For the SASL protocols.', optional: true }),
  kafkaSslCaFile: text({
    env: 'KAFKA_SSL_CA_FILE',
    doc: "PEM file of the brokers' authority, where the system does not know it.",
    optional: true,
  }),
  kafkaSessionTimeoutMs: integer({
    env: 'KAFKA_SESSION_TIMEOUT_MS',
    doc: 'A member that is silent for so long is out of its group.',
    default: 6_000,
    min: 6_000,
    max: 300_000,
  }),
  kafkaHeartbeatIntervalMs: integer({
    env: 'KAFKA_HEARTBEAT_INTERVAL_MS',
    doc: 'Pause between two heartbeats of a member.',
    default: 2_000,
    min: 100,
    max: 60_000,
  }),
  kafkaRebalanceTimeoutMs: integer({
    env: 'KAFKA_REBALANCE_TIMEOUT_MS',
    doc: 'How long a rebalance waits for members to join again.',
    default: 15_000,
    min: 1_000,
    max: 600_000,
  }),
  kafkaConnectionTimeoutMs: integer({
    env: 'KAFKA_CONNECTION_TIMEOUT_MS',
    doc: 'Bound of opening a connection to a broker.',
    default: 500,
    min: 100,
    max: 60_000,
  }),
  kafkaRequestTimeoutMs: integer({
    env: 'KAFKA_REQUEST_TIMEOUT_MS',
    doc: 'Bound of one request to a broker.',
    default: 5_000,
    min: 100,
    max: 300_000,
  }),
};
